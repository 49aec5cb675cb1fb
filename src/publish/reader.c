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
 * A message that is to be parked, and that another transaction is just parking,
 * stays in the outbox, and its master is held.
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

#include "outbox/parked.h"
#include "outbox/scan.h"
#include "publish/reader.h"
#include "publish/reader_parts.h"

typedef struct Hole
{
	int64		first_id;		/* the first id that has not been seen */
	int64		last_batch;
	FullTransactionId barrier;	/* next transaction id when it was found */
} Hole;

static bool read_holes(CqrsReader *reader, CqrsWindow *window);
static bool read_hole(CqrsReader *reader, CqrsWindow *window,
					  const Hole *hole);
static bool read_frontier(CqrsReader *reader, CqrsWindow *window);
static bool may_read(CqrsReader *reader, const CqrsWindow *window,
					 const CqrsMessage *message);
static void add_hole(CqrsReader *reader, int64 first_id, int64 last_batch,
					 FullTransactionId barrier);
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
	cqrs_reader_read_skipped(reader, watermark);
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
	complete = cqrs_reader_read_held(reader, window);
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
	return Min(cqrs_hold_min_id(reader->holds), cqrs_window_min_id(window));
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
	CqrsOutboxScan *scan = cqrs_scan_begin(hole->first_id, end_id - 1);
	CqrsMessage message;

	while (cqrs_scan_next(scan, &message))
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
		cqrs_reader_push_message(reader, window, &message);
		unseen = cqrs_batch_first_id(batch + 1);
	}
	cqrs_scan_flush_wal(scan);
	cqrs_scan_end(scan);

	if (complete && !settled && unseen < end_id)
		add_hole(reader, unseen, hole->last_batch, hole->barrier);
	return complete;
}

/* Returns false if the turn ends before the end of the outbox. */
static bool
read_frontier(CqrsReader *reader, CqrsWindow *window)
{
	bool		complete = true;
	CqrsOutboxScan *scan = cqrs_scan_begin(reader->frontier + 1,
										   PG_INT64_MAX);
	CqrsMessage message;

	reader->nlooked = 0;
	while (cqrs_scan_next(scan, &message))
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
		cqrs_reader_push_message(reader, window, &message);
		Assert(message.id > reader->frontier);	/* I4 */
		reader->frontier = message.id;
	}
	cqrs_scan_flush_wal(scan);
	cqrs_scan_end(scan);
	return complete;
}

/* Whether a message can be handled in this turn. */
static bool
may_read(CqrsReader *reader, const CqrsWindow *window,
		 const CqrsMessage *message)
{
	return cqrs_reader_may_look(reader) &&
		(cqrs_window_has_room(window) ||
		 !cqrs_lane_has(reader->worker, message));
}

bool
cqrs_reader_may_look(CqrsReader *reader)
{
	return !ShutdownRequestPending && ++reader->nlooked <= reader->look_turn;
}

/*
 * Note a hole, behind those there are.  It is settled once all transactions
 * before "barrier" have ended.
 */
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

void
cqrs_reader_push_message(CqrsReader *reader, CqrsWindow *window,
						 const CqrsMessage *message)
{
	CqrsOutgoing *outgoing;
	bool		busy;

	if (!cqrs_lane_has(reader->worker, message) ||
		cqrs_hold_keep(reader->holds, window, message->cqrs_id,
					   message->id) ||
		cqrs_skipped_has(reader->skipped, reader->nskipped, message->id))
		return;
	outgoing = cqrs_reader_build_or_park(reader, message, &busy);
	if (outgoing != NULL)
		cqrs_window_push(window, outgoing);
	else if (busy)
	{
		(void) cqrs_hold_add(reader->holds, window, message->cqrs_id,
							 message->id);
		cqrs_window_withdraw(window, message->cqrs_id, message->id);
	}
}

CqrsOutgoing *
cqrs_reader_build_or_park(CqrsReader *reader, const CqrsMessage *message, bool *busy)
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

void
cqrs_reader_read_skipped(CqrsReader *reader, int64 watermark)
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
