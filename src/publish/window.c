/*-------------------------------------------------------------------------
 *
 * window.c
 *	  Messages between the outbox and their confirms.
 *
 * The window is a ring in the order of sending, which is the order in which
 * messages were read from the outbox.  Three positions, each the number of a
 * message since the start, with head <= sent <= tail:
 *
 *	  head	the first message that is not confirmed; all before are forgotten
 *	  sent	the next one to send; from head to here, confirms are awaited
 *	  tail	the end
 *
 * Confirms may arrive in any order; head moves to the first unconfirmed
 * message.  When the connection is lost, all messages from head on are sent
 * again in the same order, even those that were confirmed after an unconfirmed
 * one: otherwise an earlier message of a row could reach consumers for the
 * first time after a later one, and consumers would keep the older state.
 *
 * A message that is not to be sent after all (its master is held, or it is
 * parked) is taken out.  If it has been sent already, it stays until it is
 * confirmed or the window is rewound, since confirms name messages by their
 * position.
 *
 * The lowest id is needed several times in a turn.  Messages that become
 * visible late have lower ids than messages before them.  So a queue keeps, in
 * ascending order, the positions of messages that no message with a lower id
 * follows.  The first position in the queue has the lowest id of all.  A
 * message enters the queue once and leaves it once.
 *
 * Belongs to the publisher alone, in memory contexts of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/guc.h"
#include "outbox/message.h"
#include "publish/window.h"

/* Messages at most: two windows of the largest setting, a power of two. */
#define RING_SIZE	(128 * 1024)

struct CqrsWindow
{
	uint64		head;
	uint64		sent;
	uint64		tail;
	uint64		base;			/* the message that has the tag 1 */
	Size		bytes;
	CqrsOutgoing *ring[RING_SIZE];

	uint64		minima_start;	/* the queue of minima is a ring, too */
	uint64		minima_end;
	uint32		minima[RING_SIZE];	/* places in "ring" */
};

#define ITEM(window, position)	((window)->ring[(position) % RING_SIZE])
#define MINIMUM(window, place)	((window)->minima[(place) % RING_SIZE])

static CqrsOutgoing *find(const CqrsWindow *window, int64 id, uint64 end);
static void move_head(CqrsWindow *window);
static void append_minimum(CqrsWindow *window, uint64 position);
static void compact(CqrsWindow *window, uint64 from,
					bool (*unwanted) (const CqrsOutgoing *message));
static bool is_withdrawn(const CqrsOutgoing *message);
static bool is_refused(const CqrsOutgoing *message);

CqrsWindow *
cqrs_window_create(void)
{
	return MemoryContextAllocZero(TopMemoryContext, sizeof(CqrsWindow));
}

int
cqrs_window_unsent(const CqrsWindow *window)
{
	return window->tail - window->sent;
}

int
cqrs_window_unconfirmed(const CqrsWindow *window)
{
	return window->sent - window->head;
}

Size
cqrs_window_bytes(const CqrsWindow *window)
{
	return window->bytes;
}

/*
 * A message that is larger than the limit of bytes is accepted if it is alone.
 */
bool
cqrs_window_has_room(const CqrsWindow *window)
{
	return window->tail == window->head ||
		(window->tail - window->head < 2 * (uint64) cqrs_confirm_window &&
		 window->bytes < (Size) cqrs_confirm_window_kb * 1024);
}

void
cqrs_window_push(CqrsWindow *window, CqrsOutgoing *message)
{
	Assert(window->tail - window->head < RING_SIZE);
	message->confirmed = false;
	message->withdrawn = false;
	message->returned = false;
	message->refusal = NULL;
	ITEM(window, window->tail) = message;
	append_minimum(window, window->tail);
	window->tail++;
	window->bytes += message->size;
}

CqrsOutgoing *
cqrs_window_next_unsent(CqrsWindow *window)
{
	return window->sent < window->tail ? ITEM(window, window->sent) : NULL;
}

void
cqrs_window_stamp(CqrsOutgoing *message)
{
	if (message->expires_at >= 0)
		cqrs_message_expires(message->body + message->expires_at,
							 message->ttl_s);
}

void
cqrs_window_sent(CqrsWindow *window)
{
	Assert(window->head <= window->sent && window->sent < window->tail);	/* I6 */
	window->sent++;
}

int
cqrs_window_confirm(CqrsWindow *window, uint64 tag, bool multiple)
{
	uint64		end = window->base + tag;
	uint64		first = multiple ? window->head : end - 1;
	int			nconfirmed = 0;

	if (tag == 0 || tag > window->sent - window->base)
		return 0;
	for (uint64 i = Max(first, window->head); i < end; i++)
	{
		if (!ITEM(window, i)->confirmed)
			nconfirmed++;
		ITEM(window, i)->confirmed = true;
	}

	move_head(window);
	return nconfirmed;
}

CqrsOutgoing *
cqrs_window_by_tag(const CqrsWindow *window, uint64 tag)
{
	uint64		position = window->base + tag - 1;

	if (tag == 0 || tag > window->sent - window->base ||
		position < window->head ||
		ITEM(window, position)->confirmed)
		return NULL;
	return ITEM(window, position);
}

uint64
cqrs_window_first_tag(const CqrsWindow *window)
{
	return window->head - window->base + 1;
}

void
cqrs_window_rewind(CqrsWindow *window)
{
	for (uint64 i = window->head; i < window->sent; i++)
		ITEM(window, i)->confirmed = ITEM(window, i)->returned = false;
	window->sent = window->head;
	window->base = window->head;
	compact(window, window->head, is_withdrawn);
}

void
cqrs_window_withdraw(CqrsWindow *window, const char *cqrs_id, int64 id)
{
	for (uint64 i = window->head; i < window->tail; i++)
	{
		CqrsOutgoing *message = ITEM(window, i);

		if (message->id >= id && strcmp(message->cqrs_id, cqrs_id) == 0)
			message->withdrawn = true;
	}
	compact(window, window->sent, is_withdrawn);
}

CqrsOutgoing *
cqrs_window_find(const CqrsWindow *window, int64 id)
{
	return find(window, id, window->tail);
}

CqrsOutgoing *
cqrs_window_find_sent(const CqrsWindow *window, int64 id)
{
	return find(window, id, window->sent);
}

uint64
cqrs_window_confirmed_total(const CqrsWindow *window)
{
	return window->head;
}

uint64
cqrs_window_end(const CqrsWindow *window)
{
	return window->tail;
}

uint64
cqrs_window_sent_so_far(const CqrsWindow *window)
{
	return window->sent;
}

void
cqrs_window_refuse(CqrsWindow *window, const char *reason)
{
	ITEM(window, window->head)->refusal =
		MemoryContextStrdup(TopMemoryContext, reason);
}

CqrsOutgoing *
cqrs_window_refused(const CqrsWindow *window)
{
	if (window->head == window->tail ||
		ITEM(window, window->head)->refusal == NULL)
		return NULL;
	return ITEM(window, window->head);
}

void
cqrs_window_remove_refused(CqrsWindow *window)
{
	CqrsOutgoing *message = cqrs_window_refused(window);

	/* Only possible without a connection, because tags follow positions. */
	Assert(window->sent == window->head);
	if (message == NULL)
		return;
	compact(window, window->head, is_refused);
}

int64
cqrs_window_min_id(const CqrsWindow *window)
{
	return window->minima_start < window->minima_end ?
		window->ring[MINIMUM(window, window->minima_start)]->id :
		PG_INT64_MAX;
}

/* The message with the id "id" before a position, or NULL. */
static CqrsOutgoing *
find(const CqrsWindow *window, int64 id, uint64 end)
{
	for (uint64 i = window->head; i < end; i++)
	{
		if (ITEM(window, i)->id == id)
			return ITEM(window, i);
	}
	return NULL;
}

/* Forget the messages at the head that are confirmed. */
static void
move_head(CqrsWindow *window)
{
	while (window->head < window->sent && ITEM(window, window->head)->confirmed)
	{
		CqrsOutgoing *message = ITEM(window, window->head);

		if (MINIMUM(window, window->minima_start) == window->head % RING_SIZE)
			window->minima_start++;
		window->bytes -= message->size;
		pfree(message);
		ITEM(window, window->head) = NULL;
		window->head++;
	}
}

/* Add a position, which is now the last one, to the queue of minima. */
static void
append_minimum(CqrsWindow *window, uint64 position)
{
	int64		id = ITEM(window, position)->id;

	while (window->minima_start < window->minima_end &&
		   window->ring[MINIMUM(window, window->minima_end - 1)]->id > id)
		window->minima_end--;
	MINIMUM(window, window->minima_end) = position % RING_SIZE;
	window->minima_end++;
}

/* Remove messages that have not been sent; the others keep their order. */
static void
compact(CqrsWindow *window, uint64 from,
		bool (*unwanted) (const CqrsOutgoing *message))
{
	uint64		to = from;

	for (uint64 i = from; i < window->tail; i++)
	{
		CqrsOutgoing *message = ITEM(window, i);

		ITEM(window, i) = NULL;
		if (unwanted(message))
		{
			window->bytes -= message->size;
			if (message->refusal != NULL)
				pfree(unconstify(char *, message->refusal));
			pfree(message);
		}
		else
			ITEM(window, to++) = message;
	}
	window->tail = to;

	window->minima_start = window->minima_end = 0;
	for (uint64 i = window->head; i < to; i++)
		append_minimum(window, i);
}

/* This one and the next: what compact() takes out of the window. */
static bool
is_withdrawn(const CqrsOutgoing *message)
{
	return message->withdrawn;
}

static bool
is_refused(const CqrsOutgoing *message)
{
	return message->refusal != NULL;
}
