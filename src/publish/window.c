/*-------------------------------------------------------------------------
 *
 * window.c
 *	  Messages between the outbox and their confirms.
 *
 * A ring in the order of sending, which is the order of the outbox as it
 * became visible.  Three positions, each the number of a message since the
 * start, with head <= sent <= tail:
 *
 *	  head	the first message that is not confirmed; all before are forgotten
 *	  sent	the next one to send; from head to here, confirms are awaited
 *	  tail	the end
 *
 * Confirms may come in any order; head moves over those without a gap.  When
 * the connection is lost everything from head on is sent again in the same
 * order, also what was confirmed behind a gap: otherwise an earlier message of
 * a row could reach consumers for the first time after a later one, and stay
 * as its last state.
 *
 * A message that is not to be sent after all (its master is held, or it is
 * parked) is taken out; one that has been sent stays until it is confirmed or
 * all is sent again, since confirms name messages by their position.
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
};

#define ITEM(window, position)	((window)->ring[(position) % RING_SIZE])

static void move_head(CqrsWindow *window);
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

/* A message that is larger than the limit of bytes gets in alone. */
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
	message->refusal = NULL;
	ITEM(window, window->tail) = message;
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
	static char expires[CQRS_EXPIRES_LEN + 1];
	static TimestampTz second = -1;
	static int	ttl_s = -1;
	TimestampTz now = GetCurrentTimestamp() / USECS_PER_SEC * USECS_PER_SEC;

	if (message->expires_at < 0)
		return;
	/* Made once for messages in a row. */
	if (now != second || message->ttl_s != ttl_s)
	{
		second = now;
		ttl_s = message->ttl_s;
		cqrs_message_expires(expires,
							 TimestampTzPlusMilliseconds(now,
														 ttl_s * INT64CONST(1000)));
	}
	memcpy(message->body + message->expires_at, expires, CQRS_EXPIRES_LEN);
}

void
cqrs_window_sent(CqrsWindow *window)
{
	Assert(window->sent < window->tail);
	window->sent++;
}

int
cqrs_window_confirm(CqrsWindow *window, uint64 tag, bool multiple)
{
	/* AMQP 0-9-1: tag 0 with "multiple" means all. */
	uint64		end = tag == 0 ? window->sent : window->base + tag;
	uint64		first = multiple || tag == 0 ? window->head : end - 1;
	int			nconfirmed = 0;

	for (uint64 i = Max(first, window->head); i < Min(end, window->sent); i++)
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

	if (tag == 0 || position < window->head || position >= window->sent ||
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
		ITEM(window, i)->confirmed = false;
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
	for (uint64 i = window->head; i < window->tail; i++)
	{
		if (ITEM(window, i)->id == id)
			return ITEM(window, i);
	}
	return NULL;
}

bool
cqrs_window_has_master(const CqrsWindow *window, const char *cqrs_id)
{
	for (uint64 i = window->head; i < window->tail; i++)
	{
		if (strcmp(ITEM(window, i)->cqrs_id, cqrs_id) == 0)
			return true;
	}
	return false;
}

uint64
cqrs_window_done(const CqrsWindow *window)
{
	return window->head;
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

	/* Only without a connection: tags follow positions. */
	Assert(window->sent == window->head);
	if (message == NULL)
		return;
	pfree(unconstify(char *, message->refusal));
	compact(window, window->head, is_refused);
}

int64
cqrs_window_min_id(const CqrsWindow *window)
{
	int64		min = PG_INT64_MAX;

	for (uint64 i = window->head; i < window->tail; i++)
		min = Min(min, ITEM(window, i)->id);
	return min;
}

/* Forget the messages at the head that are confirmed. */
static void
move_head(CqrsWindow *window)
{
	while (window->head < window->sent && ITEM(window, window->head)->confirmed)
	{
		CqrsOutgoing *message = ITEM(window, window->head);

		window->bytes -= message->size;
		pfree(message);
		ITEM(window, window->head) = NULL;
		window->head++;
	}
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
			pfree(message);
		}
		else
			ITEM(window, to++) = message;
	}
	window->tail = to;
}

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
