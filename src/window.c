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
 * Belongs to the publisher alone, in memory contexts of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "guc.h"
#include "window.h"

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

	while (window->head < window->sent && ITEM(window, window->head)->confirmed)
	{
		CqrsOutgoing *message = ITEM(window, window->head);

		window->bytes -= message->size;
		pfree(message);
		ITEM(window, window->head) = NULL;
		window->head++;
	}
	return nconfirmed;
}

void
cqrs_window_rewind(CqrsWindow *window)
{
	for (uint64 i = window->head; i < window->sent; i++)
		ITEM(window, i)->confirmed = false;
	window->sent = window->head;
	window->base = window->head;
}

int64
cqrs_window_min_id(const CqrsWindow *window)
{
	int64		min = PG_INT64_MAX;

	for (uint64 i = window->head; i < window->tail; i++)
		min = Min(min, ITEM(window, i)->id);
	return min;
}
