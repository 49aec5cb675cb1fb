/*-------------------------------------------------------------------------
 *
 * reader.c
 *	  Reading of the messages that are to be published next.
 *
 * Batches of ids become visible when their transactions commit, not in the
 * order of the ids.  Visible messages are read at once; nothing waits for a
 * transaction that is still open.  The reader keeps
 *
 *	  frontier	the highest id read
 *	  holes		ranges of batches below it that it has not seen
 *
 * A hole is a transaction that has drawn its batch and has not committed yet,
 * or never will.  Each hole has a barrier: the next transaction id at the
 * moment when the hole was found.  A transaction gets its transaction id
 * before it draws a batch, and so before any transaction draws a later batch.
 * So once all transactions older than the barrier have ended, batches of the
 * hole that a snapshot does not show were rolled back, and the hole is
 * settled.
 *
 * Holes are read before the frontier moves, under the same snapshot and in
 * ascending order.  A row that was changed by the transaction of a hole is
 * locked until that transaction ends.  So a later message of the row has a
 * higher batch, can be visible only if the hole's message is, and is read
 * after the hole's.
 *
 * Messages of other lanes are skipped; frontier and holes cover all lanes.
 *
 * Messages of held masters are skipped, and read when the hold's probe or its
 * end asks for them (hold.c); the watermark stays below them.  Messages that
 * were parked are skipped for good (skipped.c): a process may have parked them
 * and ended before the watermark passed them, this process may have parked
 * them before an earlier message held their master, or cqrs_park_held() has.
 * A held master that has been unregistered is given up after some probes: its
 * messages are parked.  A message that is to be parked, and that another
 * transaction is just parking, stays in the outbox, and its master is held.
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

/* Probes of an unregistered master before it is given up. */
#define MAX_PROBES			10
/* The most messages of such a master that are parked in one turn. */
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
	int			look_turn;		/* the most that a part of a turn looks at */
	int			nlooked;		/* looked at in this part of the turn */
	int64		frontier;
	List	   *holes;			/* of Hole, ascending */
	CqrsHolds  *holds;
	int64	   *skipped;		/* ids above the watermark, ascending */
	int			nskipped;
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
								   const CqrsMessage *message, bool *busy);
static void read_skipped(CqrsReader *reader, int64 watermark);
static bool park_hold(CqrsReader *reader, CqrsHold *hold);
static FullTransactionId oldest_running(void);

CqrsReader *
cqrs_reader_create(const CqrsWorker *worker, int64 watermark, CqrsHolds *holds,
				   int look_turn)
{
	CqrsReader *reader = MemoryContextAllocZero(TopMemoryContext,
												sizeof(CqrsReader));

	reader->worker = worker;
	reader->frontier = watermark;
	reader->holds = holds;
	reader->look_turn = look_turn;
	read_skipped(reader, watermark);
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

/* Returns false if the turn ends before all holes are read. */
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
 * Read the messages of a hole that have become visible, and keep the rest of
 * the hole unless it is settled.  Returns false if the turn ends before that.
 */
static bool
read_hole(CqrsReader *reader, CqrsWindow *window, const Hole *hole)
{
	int64		end_id = cqrs_batch_first_id(hole->last_batch + 1);
	int64		unseen = hole->first_id;	/* the first id not seen yet */
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
 * Do what is due for held masters.  Returns false if the turn ends before all
 * is done.
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
 * Make a held master's first message the probe.  If it has none, end the hold.
 * Returns false if the turn ends before that.
 */
static bool
read_probe(CqrsReader *reader, const CqrsWindow *window, CqrsHold *hold)
{
	CqrsOutgoing *outgoing = NULL;
	bool		complete = true;
	bool		busy = false;
	CqrsOutboxScan *scan;
	CqrsMessage message;

	/* Messages that have been parked since then are skipped, too. */
	read_skipped(reader, cqrs_reader_watermark(reader, window));
	if (hold->failures > MAX_PROBES &&
		!cqrs_objects_has_master(hold->cqrs_id))
		return park_hold(reader, hold);

	scan = cqrs_outbox_scan_begin(hold->next_id, reader->frontier);
	while (outgoing == NULL && !busy &&
		   cqrs_outbox_scan_next(scan, &message))
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
			!cqrs_skipped_has(reader->skipped, reader->nskipped, message.id))
			outgoing = build_or_park(reader, &message, &busy);
	}
	cqrs_outbox_scan_flush_wal(scan);
	cqrs_outbox_scan_end(scan);

	if (outgoing != NULL)
		cqrs_holds_set_probe(reader->holds, hold, outgoing);
	else if (busy)
		cqrs_holds_put_off(reader->holds, hold);
	else if (complete)
		end_hold(reader, hold);
	return complete;
}

/*
 * Put the messages of a master whose probe was taken into the window, and end
 * the hold.  Returns false if the turn ends before that.
 */
static bool
read_hold(CqrsReader *reader, CqrsWindow *window, CqrsHold *hold)
{
	bool		complete = true;
	CqrsOutboxScan *scan = cqrs_outbox_scan_begin(hold->next_id,
												  reader->frontier);
	CqrsMessage message;

	read_skipped(reader, cqrs_reader_watermark(reader, window));
	while (hold->state == CQRS_HOLD_CATCHING_UP &&
		   cqrs_outbox_scan_next(scan, &message))
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

	/* push_message() may have held the master anew. */
	if (complete && hold->state == CQRS_HOLD_CATCHING_UP)
		end_hold(reader, hold);
	return complete;
}

/*
 * Park the messages of a held master that has been unregistered, so that
 * nobody can repair its route: PARK_TURN messages in each turn.  Returns false
 * if more are left.
 */
static bool
park_hold(CqrsReader *reader, CqrsHold *hold)
{
	CqrsOutboxScan *scan = cqrs_outbox_scan_begin(hold->next_id,
												  reader->frontier);
	CqrsMessage message;
	int			count = 0;
	bool		complete = true;
	bool		busy = false;

	while (!busy && cqrs_outbox_scan_next(scan, &message))
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
		hold->next_id = message.id;
		busy = cqrs_parked_move(&message, CQRS_PARK_HELD,
								"the broker takes no messages of the master, which is unregistered") == CQRS_SKIP_BUSY;
		count++;
	}
	cqrs_outbox_scan_flush_wal(scan);
	cqrs_outbox_scan_end(scan);
	ForceSyncCommit();
	if (!complete)
		return false;
	if (busy)
	{
		cqrs_holds_put_off(reader->holds, hold);
		return true;
	}
	ereport(LOG,
			(errmsg("messages of master \"%s\" are parked: the master is unregistered, and the broker does not take them",
					hold->cqrs_id)));
	cqrs_holds_remove(reader->holds, hold);
	return true;
}

static void
end_hold(CqrsReader *reader, CqrsHold *hold)
{
	if (hold->logged)
		ereport(LOG,
				(errmsg("messages of master \"%s\" are published again",
						hold->cqrs_id)));
	cqrs_holds_remove(reader->holds, hold);
}

/* Returns false if the turn ends before the end of the outbox. */
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
		Assert(message.id > reader->frontier);	/* I4 */
		reader->frontier = message.id;
	}
	cqrs_outbox_scan_flush_wal(scan);
	cqrs_outbox_scan_end(scan);
	return complete;
}

/* Whether a message can be handled in this turn. */
static bool
may_read(CqrsReader *reader, const CqrsWindow *window,
		 const CqrsMessage *message)
{
	return may_look(reader) &&
		(cqrs_window_has_room(window) ||
		 !cqrs_lane_has(reader->worker, message));
}

/*
 * Whether another message can be looked at in this part of the turn.  Messages
 * that are skipped take no room in the window.  Without a limit of their own a
 * turn could last for hours, during which the broker would get no heartbeat,
 * other masters would get no turn, and a shutdown request would not be
 * noticed.
 */
static bool
may_look(CqrsReader *reader)
{
	return !ShutdownRequestPending && ++reader->nlooked <= reader->look_turn;
}

static void
add_hole(CqrsReader *reader, int64 first_id, int64 last_batch,
		 FullTransactionId barrier)
{
	MemoryContext caller = MemoryContextSwitchTo(reader->context);
	Hole	   *hole = palloc(sizeof(Hole));

	/* I4: holes are in ascending order, and apart from each other. */
	Assert(cqrs_batch_of(first_id) <= last_batch);
	Assert(reader->holes == NIL ||
		   ((Hole *) llast(reader->holes))->last_batch < cqrs_batch_of(first_id));
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
	bool		busy;

	if (!cqrs_lane_has(reader->worker, message) ||
		cqrs_holds_keep(reader->holds, window, message->cqrs_id,
						message->id) ||
		cqrs_skipped_has(reader->skipped, reader->nskipped, message->id))
		return;
	outgoing = build_or_park(reader, message, &busy);
	if (outgoing != NULL)
		cqrs_window_push(window, outgoing);
	else if (busy)
	{
		(void) cqrs_holds_add(reader->holds, window, message->cqrs_id,
							  message->id);
		cqrs_window_withdraw(window, message->cqrs_id, message->id);
	}
}

/*
 * Make a message for the window.  If it cannot be sent, park it and return
 * NULL.  *busy is set if another transaction is just parking it, too.
 */
static CqrsOutgoing *
build_or_park(CqrsReader *reader, const CqrsMessage *message, bool *busy)
{
	MemoryContext caller = MemoryContextSwitchTo(reader->scratch);
	char	   *error;
	CqrsOutgoing *outgoing = cqrs_outgoing_build(message, reader->context,
												 &error);

	*busy = outgoing == NULL &&
		cqrs_parked_move(message, CQRS_PARK_REFUSED, error) == CQRS_SKIP_BUSY;
	if (outgoing == NULL && !*busy)
	{
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
read_skipped(CqrsReader *reader, int64 watermark)
{
	if (reader->skipped != NULL)
		pfree(reader->skipped);
	reader->nskipped = cqrs_skipped_above(watermark, &reader->skipped);
}

/*
 * The oldest transaction id that is running for the active snapshot, or the
 * first one after the snapshot if none is.  The snapshot's xmin cannot be more
 * than 2^31 behind the next transaction id, so the epoch follows.
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
