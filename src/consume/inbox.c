/*-------------------------------------------------------------------------
 *
 * inbox.c
 *	  Messages that have been received and not acknowledged.
 *
 * The inbox mirrors what the broker counts against the prefetch of the
 * connection: a delivery enters when it arrives, and leaves when it is
 * acknowledged or the connection is closed.  It is in the order of the queue.
 *
 * All deliveries are in one memory context.  The intake bounds their number
 * and size.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "utils/memutils.h"

#include "consume/inbox.h"

typedef struct Arrival
{
	dlist_node	node;
	CqrsDelivery *delivery;
} Arrival;

struct CqrsInbox
{
	MemoryContext context;
	dlist_head	arrivals;
	int			count;
	Size		bytes;
};

CqrsInbox *
cqrs_inbox_create(void)
{
	CqrsInbox  *inbox = MemoryContextAllocZero(TopMemoryContext,
											   sizeof(CqrsInbox));

	inbox->context = AllocSetContextCreate(TopMemoryContext, "cqrs inbox",
										   ALLOCSET_DEFAULT_SIZES);
	dlist_init(&inbox->arrivals);
	return inbox;
}

MemoryContext
cqrs_inbox_context(const CqrsInbox *inbox)
{
	return inbox->context;
}

void
cqrs_inbox_push(CqrsInbox *inbox, CqrsDelivery *delivery)
{
	Arrival    *arrival = MemoryContextAlloc(inbox->context, sizeof(Arrival));

	arrival->delivery = delivery;
	dlist_push_tail(&inbox->arrivals, &arrival->node);
	inbox->count++;
	inbox->bytes += delivery->length;
}

int
cqrs_inbox_peek(const CqrsInbox *inbox, CqrsDelivery **deliveries, int most,
				Size most_bytes)
{
	Size		bytes = 0;
	int			n = 0;
	dlist_iter	iter;

	dlist_foreach(iter, unconstify(dlist_head *, &inbox->arrivals))
	{
		CqrsDelivery *delivery = dlist_container(Arrival, node,
												 iter.cur)->delivery;

		bytes += delivery->length;
		if (n == most || (n > 0 && bytes > most_bytes))
			break;
		deliveries[n++] = delivery;
	}
	return n;
}

void
cqrs_inbox_remove(CqrsInbox *inbox, uint64 tag)
{
	while (!dlist_is_empty(&inbox->arrivals))
	{
		Arrival    *arrival = dlist_head_element(Arrival, node,
												 &inbox->arrivals);

		if (arrival->delivery->tag > tag)
			break;
		dlist_delete(&arrival->node);
		inbox->count--;
		inbox->bytes -= arrival->delivery->length;
		pfree(arrival->delivery);
		pfree(arrival);
	}
	Assert(inbox->count > 0 || inbox->bytes == 0);
}

void
cqrs_inbox_clear(CqrsInbox *inbox)
{
	MemoryContextReset(inbox->context);
	dlist_init(&inbox->arrivals);
	inbox->count = 0;
	inbox->bytes = 0;
}

int
cqrs_inbox_count(const CqrsInbox *inbox)
{
	return inbox->count;
}

Size
cqrs_inbox_bytes(const CqrsInbox *inbox)
{
	return inbox->bytes;
}
