/*-------------------------------------------------------------------------
 *
 * pack.c
 *	  Packs of random messages, and of random bytes, without a server.
 *
 * usage: pack SECONDS [SEED]
 *
 *	  - what is unpacked equals what was packed, and ids follow each other
 *	  - a pack has the bytes that filled segments have
 *	  - of bytes that are no pack, reading says so
 *	  - nothing behind the end of the bytes is read, and no string that is
 *		returned ends there: they lie before a page that cannot be read
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/mman.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "fmgr.h"

#include "outbox/pack.h"
#include "server.h"

#define MOST		12
#define ROOM		(64 * 1024)
#define FIRST_ID	1000

/* ROOM bytes, and behind them a page that cannot be read. */
static char *room;

static CqrsMessage messages[MOST];
static int	nmessages;

/* A random text; never NULL. */
static char *
any_text(void)
{
	int			length = any(4) == 0 ? any(300) : any(12);
	char	   *text = palloc(length + 1);

	for (int i = 0; i < length; i++)
		text[i] = 1 + any(255);
	text[length] = '\0';
	return text;
}

static const char *
maybe_text(void)
{
	return any(2) == 0 ? any_text() : NULL;
}

static void
make_messages(void)
{
	static const CqrsSignal signals[] = {CQRS_SIGNAL_SAVE, CQRS_SIGNAL_DELETE, CQRS_SIGNAL_SYNC};

	nmessages = 1 + any(MOST);
	for (int i = 0; i < nmessages; i++)
	{
		CqrsMessage *message = &messages[i];

		message->id = FIRST_ID + i;
		message->signal = signals[any(3)];
		message->ttl_s = any(3) - 1 + any(2) * any(1000000);
		message->cqrs_id = any_text();
		message->instance_pk = any_text();
		message->instance_data = any_text();
		message->previous_data = maybe_text();
		message->meta = maybe_text();
		message->queue = maybe_text();
		message->correlation_id = maybe_text();
		message->exchange = maybe_text();
		message->routing_key = maybe_text();
	}
}

static void
append(char **to, const char *from, Size length)
{
	memcpy(*to, from, length);
	*to += length;
}

/* The bytes of a message in segments that version 1.0 has filled. */
static void
append_as_filled(char **to, const CqrsMessage *m)
{
	const char *required[] = {m->cqrs_id, m->instance_pk, m->instance_data};
	const char *optional[] = {
		m->previous_data, m->meta, m->queue, m->correlation_id, m->exchange,
		m->routing_key
	};
	uint8		bits = 0;
	char		signal = m->signal;

	for (int i = 0; i < lengthof(optional); i++)
		bits |= (optional[i] != NULL) << i;
	append(to, &signal, 1);
	append(to, (char *) &bits, 1);
	append(to, (char *) &m->ttl_s, 4);
	for (int i = 0; i < lengthof(required); i++)
		append(to, required[i], strlen(required[i]) + 1);
	for (int i = 0; i < lengthof(optional); i++)
	{
		if (optional[i] != NULL)
			append(to, optional[i], strlen(optional[i]) + 1);
	}
}

/* Packs the messages; returns the length of the pack, which is in the room. */
static int
pack(StringInfo contents)
{
	char		filled[ROOM];
	char	   *end = filled;

	resetStringInfo(contents);
	for (int i = 0; i < nmessages; i++)
	{
		cqrs_pack_append(contents, &messages[i]);
		append_as_filled(&end, &messages[i]);
	}
	CHECK(contents->len == end - filled);
	CHECK(memcmp(contents->data, filled, contents->len) == 0);
	return contents->len;
}

static bool
same(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static void
check_message(const CqrsMessage *a, const CqrsMessage *b)
{
	CHECK(a->id == b->id);
	CHECK(a->signal == b->signal);
	CHECK(a->ttl_s == b->ttl_s);
	CHECK(same(a->cqrs_id, b->cqrs_id));
	CHECK(same(a->instance_pk, b->instance_pk));
	CHECK(same(a->instance_data, b->instance_data));
	CHECK(same(a->previous_data, b->previous_data));
	CHECK(same(a->meta, b->meta));
	CHECK(same(a->queue, b->queue));
	CHECK(same(a->correlation_id, b->correlation_id));
	CHECK(same(a->exchange, b->exchange));
	CHECK(same(a->routing_key, b->routing_key));
}

/*
 * Reads "length" bytes that end where the room ends, and packs what is read.
 * Returns false if they are no pack.
 */
static bool
read_all(const char *bytes, int length, StringInfo again)
{
	struct varlena *value = (struct varlena *) (room + ROOM - length - VARHDRSZ);
	CqrsPackReader reader;
	volatile int nread = 0;
	volatile bool readable = true;

	SET_VARSIZE(value, length + VARHDRSZ);
	memcpy(VARDATA(value), bytes, length);
	resetStringInfo(again);
	cqrs_pack_open(&reader, PointerGetDatum(value), FIRST_ID);
	PG_TRY();
	{
		CqrsMessage message;

		while (cqrs_pack_next(&reader, &message))
		{
			CHECK(message.id == FIRST_ID + nread++);
			CHECK(reader.next > VARDATA(value) && reader.next <= room + ROOM);
			CHECK(strchr("SDY", message.signal) != NULL);
			cqrs_pack_append(again, &message);
		}
	}
	PG_CATCH();
	{
		CHECK(geterrcode() == ERRCODE_INVALID_BINARY_REPRESENTATION);
		readable = false;
	}
	PG_END_TRY();
	return readable;
}

static void
check_same(const char *bytes, int length)
{
	struct varlena *value = (struct varlena *) (room + ROOM - length - VARHDRSZ);
	CqrsPackReader reader;
	CqrsMessage message;

	SET_VARSIZE(value, length + VARHDRSZ);
	memcpy(VARDATA(value), bytes, length);
	cqrs_pack_open(&reader, PointerGetDatum(value), FIRST_ID);
	for (int i = 0; i < nmessages; i++)
	{
		CHECK(cqrs_pack_next(&reader, &message));
		check_message(&messages[i], &message);
	}
	CHECK(!cqrs_pack_next(&reader, &message));
}

/* Changes some of the bytes; returns how many there are then. */
static int
corrupt(char *bytes, int length)
{
	for (int changes = 1 + any(4); changes > 0 && length > 0; changes--)
	{
		int			at = any(length);

		switch (any(5))
		{
			case 0:
				bytes[at] = any(256);
				break;
			case 1:
				bytes[at] ^= 1 << any(8);
				break;
			case 2:
				bytes[at] = '\0';
				break;
			case 3:
				length = at;
				break;
			case 4:
				memmove(bytes + at, bytes + at + 1, length - at - 1);
				length--;
				break;
		}
	}
	return length;
}

static void
run(void)
{
	StringInfoData contents;
	StringInfoData again;
	int			length;

	initStringInfo(&contents);
	initStringInfo(&again);
	make_messages();
	length = pack(&contents);
	check_same(contents.data, length);

	/* A beginning is a pack only where a message ends. */
	for (int i = 0; i < 8; i++)
	{
		int			cut = any(length);

		if (read_all(contents.data, cut, &again))
			CHECK(again.len == cut);
	}

	/* What is read of other bytes, if it can be read, is what they say. */
	for (int i = 0; i < 32; i++)
	{
		char		bytes[ROOM];
		int			changed;

		memcpy(bytes, contents.data, length);
		changed = corrupt(bytes, length);
		if (read_all(bytes, changed, &again))
		{
			CHECK(again.len == changed);
			CHECK(memcmp(again.data, bytes, changed) == 0);
		}
	}
}

int
main(int argc, char **argv)
{
	int			page = sysconf(_SC_PAGESIZE);

	room = mmap(NULL, ROOM + page, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(room != MAP_FAILED && mprotect(room + ROOM, page, PROT_NONE) == 0);
	return run_schedules(argc, argv, run,
						 "random packs, each corrupted 40 times");
}

/* ---- In the place of the server. */

struct varlena *
pg_detoast_datum_packed(struct varlena *datum)
{
	return datum;
}
