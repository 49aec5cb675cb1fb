/*-------------------------------------------------------------------------
 *
 * desk.c
 *	  The consumer's work in the database, apart from applying messages.
 *
 * A turn is one short transaction: check whether the extension still exists,
 * read cqrs.consumer and cqrs.replica when somebody has changed them, look
 * when a failed message is due and how many wait, remove old dead letters.  A
 * turn does only what is due; if nothing is due, there is no transaction.
 *
 * Users may lock the tables for any time.  Meanwhile messages are applied as
 * far as possible.  An error ends a turn, which is tried again later.
 *
 * Belongs to the consumer alone; lives in TopMemoryContext.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/caught.h"
#include "base/guc.h"
#include "base/objects.h"
#include "base/timing.h"
#include "consume/batch.h"
#include "consume/desk.h"
#include "consume/failed.h"
#include "consume/topology.h"
#include "replica/replica.h"
#include "worker/worker.h"

/* Failed messages are counted at most once in this time. */
#define COUNT_INTERVAL_MS	1000
/* Dead letters are looked through this often. */
#define PURGE_INTERVAL_MS	60000
/* The pause if there are more of them than are deleted at a time. */
#define PURGE_PAUSE_MS		1000
/* The pause after an error. */
#define FAILURE_INTERVAL_MS	5000
/* The pause after retries whose rows other transactions had. */
#define PUT_OFF_MS			1000

static bool look_is_due(const CqrsDesk *desk);
static long purge_wait_ms(const CqrsDesk *desk);
static void check_extension(const CqrsDesk *desk, uint32 calls);
static bool turn_is_due(const CqrsDesk *desk);
static long count_wait_ms(const CqrsDesk *desk);
static void take_turn(CqrsDesk *desk);
static void look(CqrsDesk *desk, uint32 calls);
static void note_failure(CqrsDesk *desk, const ErrorData *error);
static void look_at_failed(CqrsDesk *desk);
static void purge(CqrsDesk *desk);

CqrsDesk *
cqrs_desk_create(const CqrsWorker *worker)
{
	CqrsDesk   *desk = MemoryContextAllocZero(TopMemoryContext,
											  sizeof(CqrsDesk));

	desk->worker = worker;
	look(desk, cqrs_worker_calls(worker));
	desk->stale = true;
	return desk;
}

bool
cqrs_desk_turn(CqrsDesk *desk)
{
	MemoryContext turn = CurrentMemoryContext;
	uint64		looks = desk->looks;

	if (!turn_is_due(desk) ||
		cqrs_until_after_ms(desk->failed_at, FAILURE_INTERVAL_MS) > 0)
		return false;
	PG_TRY();
	{
		take_turn(desk);
		desk->failed_at = 0;
	}
	PG_CATCH();
	{
		note_failure(desk, cqrs_caught_abort(turn));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(turn);
	return desk->looks != looks;
}

static bool
turn_is_due(const CqrsDesk *desk)
{
	return look_is_due(desk) || desk->stale || purge_wait_ms(desk) == 0 ||
		count_wait_ms(desk) == 0;
}

/* Look at what is due, in a transaction of its own. */
static void
take_turn(CqrsDesk *desk)
{
	uint32		calls = cqrs_worker_calls(desk->worker);

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	check_extension(desk, calls);
	if (look_is_due(desk))
	{
		look(desk, calls);
		desk->stale = true;
	}
	if (purge_wait_ms(desk) == 0)
		purge(desk);
	if (desk->stale || count_wait_ms(desk) == 0)
		look_at_failed(desk);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Seat, bindings and what is due stay as they were. */
static void
note_failure(CqrsDesk *desk, const ErrorData *error)
{
	cqrs_worker_set_error(error->message);
	if (desk->failed_at == 0)
		ereport(LOG,
				(errmsg("cqrs consumer cannot read or write its tables: %s",
						error->message),
				 errdetail("The consumer tries again after some seconds.")));
	desk->failed_at = GetCurrentTimestamp();
}

void
cqrs_desk_put_off_retries(CqrsDesk *desk)
{
	desk->put_off_at = GetCurrentTimestamp();
	desk->stale = true;
}

long
cqrs_desk_retry_wait_ms(const CqrsDesk *desk)
{
	long		pause_ms = Max(cqrs_until_after_ms(desk->put_off_at, PUT_OFF_MS),
							   cqrs_until_after_ms(desk->failed_at,
												   FAILURE_INTERVAL_MS));

	return desk->due_at == 0 ? -1 : Max(cqrs_until_ms(desk->due_at), pause_ms);
}

void
cqrs_desk_reload(CqrsDesk *desk)
{
	desk->reloaded = true;
}

void
cqrs_desk_failed_changed(CqrsDesk *desk)
{
	desk->stale = true;
}

bool
cqrs_desk_is_full(const CqrsDesk *desk)
{
	return desk->waiting >= cqrs_max_failed;
}

List *
cqrs_desk_due(CqrsDesk *desk, bool one)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *volatile due = NIL;

	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		MemoryContextSwitchTo(caller);
		due = cqrs_failed_due(one ? 1 : CQRS_BATCH_MESSAGES, CQRS_BATCH_BYTES);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		note_failure(desk, cqrs_caught_abort(caller));
		due = NIL;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	desk->stale = true;
	return due;
}

long
cqrs_desk_wait_ms(const CqrsDesk *desk)
{
	if (turn_is_due(desk))
		return cqrs_until_after_ms(desk->failed_at, FAILURE_INTERVAL_MS);
	return cqrs_sooner_ms(purge_wait_ms(desk),
						  count_wait_ms(desk));
}

/* Whether somebody has asked for a look, or replicas have changed. */
static bool
look_is_due(const CqrsDesk *desk)
{
	return desk->reloaded ||
		desk->calls != cqrs_worker_calls(desk->worker) ||
		desk->generation != cqrs_replica_generation();
}

/* Milliseconds until failed messages are to be counted; -1: they were. */
static long
count_wait_ms(const CqrsDesk *desk)
{
	return desk->uncounted ?
		cqrs_until_after_ms(desk->counted_at, COUNT_INTERVAL_MS) : -1;
}

/* Milliseconds until old dead letters are to be removed, 0: now. */
static long
purge_wait_ms(const CqrsDesk *desk)
{
	return cqrs_until_after_ms(desk->purged_at, desk->more_to_purge ?
							   PURGE_PAUSE_MS : PURGE_INTERVAL_MS);
}

/*
 * End the process if the extension was dropped, or dropped and created again.
 * "calls" was read before the catalog.
 */
static void
check_extension(const CqrsDesk *desk, uint32 calls)
{
	const CqrsObjects *objects = cqrs_objects_get(true);

	if (objects != NULL && objects->extension == desk->worker->extension)
		return;
	if (objects == NULL)
		cqrs_worker_unwant(desk->worker, calls);
	proc_exit(1);
}

/* An error changes nothing.  "calls" was read before the catalog. */
static void
look(CqrsDesk *desk, uint32 calls)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cqrs desk",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	CqrsSeat   *seat = cqrs_seat_read();
	List	   *bindings = seat != NULL ? cqrs_topology_read(seat->queue) : NIL;

	MemoryContextSwitchTo(caller);
	MemoryContextSetParent(context, TopMemoryContext);
	if (desk->context != NULL)
		MemoryContextDelete(desk->context);
	desk->context = context;
	desk->seat = seat;
	desk->bindings = bindings;
	desk->generation = cqrs_replica_generation();
	desk->calls = calls;
	desk->looks++;
	desk->reloaded = false;
}

/* The count takes a scan of the table, the time a look into an index. */
static void
look_at_failed(CqrsDesk *desk)
{
	desk->due_at = cqrs_failed_next_due();
	desk->uncounted = desk->due_at != 0;
	if (desk->due_at == 0)
		desk->waiting = 0;
	else if (count_wait_ms(desk) == 0)
	{
		desk->waiting = cqrs_failed_count_waiting();
		desk->counted_at = GetCurrentTimestamp();
		desk->uncounted = false;
	}
	desk->stale = false;
}

/*
 * Remove a part of the old dead letters.  If there may be more, the next part
 * follows soon.
 */
static void
purge(CqrsDesk *desk)
{
	TimestampTz before =
	TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
								-INT64CONST(1000) * cqrs_dead_letter_ttl_s);

	desk->more_to_purge = cqrs_dead_letter_ttl_s > 0 &&
		cqrs_failed_purge(before);
	desk->purged_at = GetCurrentTimestamp();
	desk->stale = true;
}
