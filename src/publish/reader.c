/*-------------------------------------------------------------------------
 *
 * reader.c
 *	  What of the outbox is to be published next.
 *
 * Batches of ids become visible when their transactions commit, not in the
 * order of the ids.  Whatever is visible is read at once; nothing waits for a
 * transaction that is still open.  The reader keeps
 *
 *	  frontier	the highest id read
 *	  holes		ranges of batches below it that it has not seen
 *
 * A hole is a transaction that has drawn its batch and not committed yet, or
 * never will.  Each hole carries the next transaction id of the moment when it
 * was found.  Whoever drew a batch had his transaction id before, and that
 * before anybody drew a later batch; so once all transactions older than that
 * id have ended, what a snapshot still does not show was rolled back, and the
 * hole is settled.
 *
 * Holes are looked into before the frontier moves, under the same snapshot and
 * in ascending order.  A row that was changed by the transaction of a hole is
 * locked until that one ends; so a later message of the row has a higher
 * batch and can be visible only when the hole's is, and is read after it.
 *
 * Messages of other lanes are passed over; frontier and holes are of all.
 *
 * Messages of held masters are passed over, and read when the hold's probe or
 * its end asks for them (hold.c); the watermark stays below them.  Messages
 * that were parked before, by a process that ended before the watermark got
 * past them, or by this one before an earlier message held their master, or by
 * cqrs_park_held(), are passed over for good.  A held master that has been
 * unregistered is given up after some probes: its messages are parked.
 *
 * Belongs to the publisher alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "postmaster/interrupt.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/objects.h"
#include "outbox/parked.h"
#include "outbox/scan.h"
#include "publish/outgoing.h"
#include "publish/reader.h"

/* Messages that a part of a turn looks at, so that the broker is heard. */
#define LOOK_TURN			20000
/* Probes of a master that has been unregistered, before it is given up. */
#define MAX_PROBES			10
/* Messages of such a master that are parked before the broker is heard. */
#define PARK_TURN			1000

typedef struct Hole
{
	int64		first_id;		/* the first id that has not been seen */
	int64		last_batch;
	FullTransactionId barrier;	/* next transaction id when it was found */
} Hole;

struct CqrsReader
{
	const CqrsWorker *worker;
	int			nlooked;		/* messages in this part of the turn */
	int64		frontier;
	List	   *holes;			/* of Hole, ascending */
	CqrsHolds  *holds;
	int64	   *parked;			/* ids above the watermark that are parked, in
								 * order */
	int			nparked;
	MemoryContext context;		/* holes, and messages for the window */
	MemoryContext scratch;		/* reset for each message */
};

static bool read_holes(CqrsReader *reader, CqrsWindow *window);
static bool read_hole(CqrsReader *reader, CqrsWindow *window,
					  const Hole *hole);
static bool read_held(CqrsReader *reader, CqrsWindow *window);
static bool read_probe(CqrsReader *reader, const CqrsWindow *window,
					   CqrsHold *hold);
static bool read_hold(CqrsReader *reader, CqrsWindow *window, CqrsHold *hold);
static void end_hold(CqrsReader *reader, CqrsHold *hold);
static bool read_frontier(CqrsReader *reader, CqrsWindow *window);
static bool may_read(CqrsReader *reader, const CqrsWindow *window,
					 const CqrsMessage *message);
static bool may_look(CqrsReader *reader);
static void add_hole(CqrsReader *reader, int64 first_id, int64 last_batch,
					 FullTransactionId barrier);
static void push_message(CqrsReader *reader, CqrsWindow *window,
						 const CqrsMessage *message);
static CqrsOutgoing *build_or_park(CqrsReader *reader,
								   const CqrsMessage *message);
static void read_parked(CqrsReader *reader, int64 watermark);
static bool park_hold(CqrsReader *reader, CqrsHold *hold);
static FullTransactionId oldest_running(void);

CqrsReader *
cqrs_reader_create(const CqrsWorker *worker, int64 watermark, CqrsHolds *holds)
{
	CqrsReader *reader = MemoryContextAllocZero(TopMemoryContext,
												sizeof(CqrsReader));

	reader->worker = worker;
	reader->frontier = watermark;
	reader->holds = holds;
	read_parked(reader, watermark);
	reader->context = AllocSetContextCreate(TopMemoryContext, "cqrs reader",
											ALLOCSET_DEFAULT_SIZES);
	reader->scratch = AllocSetContextCreate(TopMemoryContext, "cqrs message",
											ALLOCSET_DEFAULT_SIZES);
	return reader;
}

bool
cqrs_reader_read(CqrsReader *reader, CqrsWindow *window)
{
	bool		complete;

	if (!read_holes(reader, window))
		return true;
	complete = read_held(reader, window);
	return !(read_frontier(reader, window) && complete);
}

bool
cqrs_reader_has_holes(const CqrsReader *reader)
{
	return reader->holes != NIL;
}

int64
cqrs_reader_watermark(const CqrsReader *reader, const CqrsWindow *window)
{
	int64		watermark = reader->frontier;

	if (reader->holes != NIL)
		watermark = Min(watermark,
						((Hole *) linitial(reader->holes))->first_id - 1);
	return Min(watermark, cqrs_reader_min_unconfirmed(reader, window) - 1);
}

int64
cqrs_reader_min_unconfirmed(const CqrsReader *reader,
							const CqrsWindow *window)
{
	return Min(cqrs_holds_min_id(reader->holds), cqrs_window_min_id(window));
}

/* Returns false when the turn ends before all holes are looked into. */
static bool
read_holes(CqrsReader *reader, CqrsWindow *window)
{
	List	   *holes = reader->holes;
	bool		complete = true;
	ListCell   *lc;

	reader->holes = NIL;
	reader->nlooked = 0;
	foreach(lc, holes)
	{
		Hole	   *hole = lfirst(lc);

		if (complete)
			complete = read_hole(reader, window, hole);
		else
			add_hole(reader, hole->first_id, hole->last_batch, hole->barrier);
	}
	list_free_deep(holes);
	return complete;
}

/*
 * Read what has become visible of a hole, and keep what has not and is not
 * settled.  Returns false when the turn ends before that.
 */
static bool
read_hole(CqrsReader *reader, CqrsWindow *window, const Hole *hole)
{
	int64		end_id = cqrs_batch_first_id(hole->last_batch + 1);
	int64		unseen = hole->first_id;	/* the first id not accounted for */
	bool		settled = FullTransactionIdFollowsOrEquals(oldest_running(),
														   hole->barrier);
	bool		complete = true;
	CqrsOutboxScan *scan = cqrs_outbox_scan_begin(hole->first_id, end_id - 1);
	CqrsMessage message;

	while (cqrs_outbox_scan_next(scan, &message))
	{
		int64		batch = cqrs_batch_of(message.id);

		CHECK_FOR_INTERRUPTS();
		if (!settled && cqrs_batch_of(unseen) < batch)
			add_hole(reader, unseen, batch - 1, hole->barrier);
		if (!may_read(reader, window, &message))
		{
			add_hole(reader, message.id, hole->last_batch, hole->barrier);
			complete = false;
			break;
		}
		push_message(reader, window, &message);
		unseen = cqrs_batch_first_id(batch + 1);
	}
	cqrs_outbox_scan_flush_wal(scan);
	cqrs_outbox_scan_end(scan);

	if (complete && !settled && unseen < end_id)
		add_hole(reader, unseen, hole->last_batch, hole->barrier);
	return complete;
}

/*
 * Do what is due about held masters.  Returns false when the turn ends before
 * all of it is done.
 */
static bool
read_held(CqrsReader *reader, CqrsWindow *window)
{
	CqrsHold   *probe = cqrs_holds_next_probe(reader->holds, window);
	bool		probed = true;
	bool		complete = true;
	List	   *holds;
	ListCell   *lc;

	reader->nlooked = 0;
	if (probe != NULL)
		probed = read_probe(reader, window, probe);
	reader->nlooked = 0;
	holds = list_copy(reader->holds->list);
	foreach(lc, holds)
	{
		CqrsHold   *hold = lfirst(lc);

		if (complete && hold->state == CQRS_HOLD_CATCHING_UP)
			complete = read_hold(reader, window, hold);
	}
	list_free(holds);
	return probed && complete;
}

/*
 * Make a held master's first message the probe; without one, end the hold.
 * Returns false when the turn ends before that.
 */
static bool
read_probe(CqrsReader *reader, const CqrsWindow *window, CqrsHold *hold)
{
	CqrsOutgoing *outgoing = NULL;
	bool		complete = true;
	CqrsOutboxScan *scan;
	CqrsMessage message;

	/* What has been parked since is passed over, too. */
	read_parked(reader, cqrs_reader_watermark(reader, window));
	if (hold->failures > MAX_PROBES &&
		!cqrs_objects_has_master(hold->cqrs_id))
		return park_hold(reader, hold);

	scan = cqrs_outbox_scan_begin(hold->next_id, reader->frontier);
	while (outgoing == NULL && cqrs_outbox_scan_next(scan, &message))
	{
		CHECK_FOR_INTERRUPTS();
		if (!may_look(reader))
		{
			hold->next_id = message.id;
			complete = false;
			break;
		}
		if (strcmp(message.cqrs_id, hold->cqrs_id) == 0 &&
			cqrs_lane_has(reader->worker, &message) &&
			!cqrs_parked_has(reader->parked, reader->nparked, message.id))
			outgoing = build_or_park(reader, &message);
	}
	cqrs_outbox_scan_flush_wal(scan);
	cqrs_outbox_scan_end(scan);

	if (outgoing != NULL)
		cqrs_holds_set_probe(reader->holds, hold, outgoing);
	else if (complete)
		end_hold(reader, hold);
	return complete;
}

/*
 * Put the messages of a master whose probe was taken into the window.  Returns
 * false when the turn ends before the last one, which ends the hold.
 */
static bool
read_hold(CqrsReader *reader, CqrsWindow *window, CqrsHold *hold)
{
	bool		complete = true;
	CqrsOutboxScan *scan = cqrs_outbox_scan_begin(hold->next_id,
												  reader->frontier);
	CqrsMessage message;

	read_parked(reader, cqrs_reader_watermark(reader, window));
	while (cqrs_outbox_scan_next(scan, &message))
	{
		CHECK_FOR_INTERRUPTS();
		if (!may_look(reader) || !cqrs_window_has_room(window))
		{
			hold->next_id = message.id;
			complete = false;
			break;
		}
		if (strcmp(message.cqrs_id, hold->cqrs_id) != 0 ||
			!cqrs_lane_has(reader->worker, &message))
			continue;
		hold->next_id = message.id + 1;
		push_message(reader, window, &message);
	}
	cqrs_outbox_scan_flush_wal(scan);
	cqrs_outbox_scan_end(scan);

	if (complete)
		end_hold(reader, hold);
	return complete;
}

/*
 * Park the messages of a held master that nobody can mend, because it has been
 * unregistered: in parts, one each turn.  Returns false when more are left.
 */
static bool
park_hold(CqrsReader *reader, CqrsHold *hold)
{
	CqrsOutboxScan *scan = cqrs_outbox_scan_begin(hold->next_id,
												  reader->frontier);
	CqrsMessage message;
	int			count = 0;
	bool		complete = true;

	while (cqrs_outbox_scan_next(scan, &message))
	{
		CHECK_FOR_INTERRUPTS();
		if (count == PARK_TURN || !may_look(reader))
		{
			hold->next_id = message.id;
			complete = false;
			break;
		}
		if (strcmp(message.cqrs_id, hold->cqrs_id) != 0 ||
			!cqrs_lane_has(reader->worker, &message))
			continue;
		hold->next_id = message.id + 1;
		if (cqrs_parked_has(reader->parked, reader->nparked, message.id))
			continue;
		cqrs_parked_insert(&message, CQRS_PARK_HELD,
						   "the broker takes no messages of the master, which is unregistered",
						   NULL);
		count++;
	}
	cqrs_outbox_scan_flush_wal(scan);
	cqrs_outbox_scan_end(scan);
	ForceSyncCommit();
	if (!complete)
		return false;
	ereport(LOG,
			(errmsg("messages of master \"%s\" are parked: the master is unregistered, and the broker does not take them",
					hold->cqrs_id)));
	cqrs_holds_remove(reader->holds, hold);
	return true;
}

static void
end_hold(CqrsReader *reader, CqrsHold *hold)
{
	if (hold->told)
		ereport(LOG,
				(errmsg("messages of master \"%s\" are published again",
						hold->cqrs_id)));
	cqrs_holds_remove(reader->holds, hold);
}

/* Returns false when the turn ends before the end of the outbox. */
static bool
read_frontier(CqrsReader *reader, CqrsWindow *window)
{
	bool		complete = true;
	CqrsOutboxScan *scan = cqrs_outbox_scan_begin(reader->frontier + 1,
												  PG_INT64_MAX);
	CqrsMessage message;

	reader->nlooked = 0;
	while (cqrs_outbox_scan_next(scan, &message))
	{
		int64		next_batch = cqrs_batch_of(reader->frontier) + 1;

		CHECK_FOR_INTERRUPTS();
		if (!may_read(reader, window, &message))
		{
			complete = false;
			break;
		}
		if (cqrs_batch_of(message.id) > next_batch)
			add_hole(reader, cqrs_batch_first_id(next_batch),
					 cqrs_batch_of(message.id) - 1,
					 ReadNextFullTransactionId());
		push_message(reader, window, &message);
		reader->frontier = message.id;
	}
	cqrs_outbox_scan_flush_wal(scan);
	cqrs_outbox_scan_end(scan);
	return complete;
}

/* Whether a message can be dealt with in this turn. */
static bool
may_read(CqrsReader *reader, const CqrsWindow *window,
		 const CqrsMessage *message)
{
	return may_look(reader) &&
		(cqrs_window_has_room(window) ||
		 !cqrs_lane_has(reader->worker, message));
}

/*
 * Whether another message can be looked at.  Those that are passed over take no
 * room in the window; without a limit of their own a turn would last as long
 * as there are some, be it hours, and the broker would get no heartbeat, the
 * other masters no turn, and a request to shut down no attention.
 */
static bool
may_look(CqrsReader *reader)
{
	return !ShutdownRequestPending && ++reader->nlooked <= LOOK_TURN;
}

static void
add_hole(CqrsReader *reader, int64 first_id, int64 last_batch,
		 FullTransactionId barrier)
{
	MemoryContext caller = MemoryContextSwitchTo(reader->context);
	Hole	   *hole = palloc(sizeof(Hole));

	hole->first_id = first_id;
	hole->last_batch = last_batch;
	hole->barrier = barrier;
	reader->holes = lappend(reader->holes, hole);
	MemoryContextSwitchTo(caller);
}

/*
 * Put a message into the window, unless it is another lane's, its master is
 * held, or it is parked.
 */
static void
push_message(CqrsReader *reader, CqrsWindow *window,
			 const CqrsMessage *message)
{
	CqrsOutgoing *outgoing;

	if (!cqrs_lane_has(reader->worker, message) ||
		cqrs_holds_keep(reader->holds, window, message->cqrs_id,
						message->id) ||
		cqrs_parked_has(reader->parked, reader->nparked, message->id))
		return;
	outgoing = build_or_park(reader, message);
	if (outgoing != NULL)
		cqrs_window_push(window, outgoing);
}

/* A message for the window; NULL when it cannot be sent, and is parked. */
static CqrsOutgoing *
build_or_park(CqrsReader *reader, const CqrsMessage *message)
{
	MemoryContext caller = MemoryContextSwitchTo(reader->scratch);
	char	   *error;
	CqrsOutgoing *outgoing = cqrs_outgoing_build(message, reader->context,
												 &error);

	if (outgoing == NULL)
	{
		cqrs_parked_insert(message, CQRS_PARK_REFUSED, error, NULL);
		ForceSyncCommit();
		ereport(LOG,
				(errmsg("a message of master \"%s\" is parked: %s",
						message->cqrs_id, error)));
	}
	MemoryContextSwitchTo(caller);
	MemoryContextReset(reader->scratch);
	return outgoing;
}

static void
read_parked(CqrsReader *reader, int64 watermark)
{
	if (reader->parked != NULL)
		pfree(reader->parked);
	reader->nparked = cqrs_parked_above(watermark, &reader->parked);
}

/*
 * The oldest transaction id that the active snapshot takes for running, or
 * the first one that it does not know.  Its xmin cannot be more than 2^31
 * behind the next transaction id, so the epoch follows.
 */
static FullTransactionId
oldest_running(void)
{
	FullTransactionId next = ReadNextFullTransactionId();
	TransactionId xmin = GetActiveSnapshot()->xmin;
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xmin > XidFromFullTransactionId(next))
		epoch--;
	return FullTransactionIdFromEpochAndXid(epoch, xmin);
}
