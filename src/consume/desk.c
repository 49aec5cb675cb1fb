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
 * Belongs to the consumer alone; lives in TopMemoryContext.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

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

static bool look_is_due(const CqrsDesk *desk);
static bool purge_is_due(const CqrsDesk *desk);
static void check_extension(const CqrsDesk *desk, uint32 calls);
static void look(CqrsDesk *desk);
static void look_at_failed(CqrsDesk *desk);
static void purge(CqrsDesk *desk);

CqrsDesk *
cqrs_desk_create(const CqrsWorker *worker)
{
	CqrsDesk   *desk = MemoryContextAllocZero(TopMemoryContext,
											  sizeof(CqrsDesk));

	desk->worker = worker;
	desk->context = AllocSetContextCreate(TopMemoryContext, "cqrs desk",
										  ALLOCSET_SMALL_SIZES);
	desk->calls = cqrs_worker_calls(worker);
	look(desk);
	desk->stale = true;
	return desk;
}

bool
cqrs_desk_turn(CqrsDesk *desk)
{
	MemoryContext turn = CurrentMemoryContext;
	uint32		calls = cqrs_worker_calls(desk->worker);
	bool		changed = look_is_due(desk);
	bool		old = purge_is_due(desk);

	if (!changed && !desk->stale && !old)
		return false;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	check_extension(desk, calls);
	if (changed)
	{
		desk->calls = calls;
		look(desk);
		desk->stale = true;
	}
	if (old)
		purge(desk);
	if (desk->stale)
		look_at_failed(desk);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(turn);
	return changed;
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
	List	   *due;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(caller);
	due = cqrs_failed_due(one ? 1 : CQRS_BATCH_MESSAGES, CQRS_BATCH_BYTES);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	desk->stale = true;
	return due;
}

long
cqrs_desk_wait_ms(const CqrsDesk *desk)
{
	if (look_is_due(desk) || desk->stale || purge_is_due(desk))
		return 0;
	return cqrs_until_after_ms(desk->purged_at, PURGE_INTERVAL_MS);
}

/* Whether somebody has asked for a look, or replicas have changed. */
static bool
look_is_due(const CqrsDesk *desk)
{
	return desk->calls != cqrs_worker_calls(desk->worker) ||
		desk->generation != cqrs_replica_generation();
}

static bool
purge_is_due(const CqrsDesk *desk)
{
	return cqrs_until_after_ms(desk->purged_at, PURGE_INTERVAL_MS) == 0;
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

static void
look(CqrsDesk *desk)
{
	MemoryContext caller;

	MemoryContextReset(desk->context);
	caller = MemoryContextSwitchTo(desk->context);
	desk->bindings = NIL;
	desk->seat = cqrs_seat_read();
	if (desk->seat != NULL)
		desk->bindings = cqrs_topology_read(desk->seat->queue);
	desk->generation = cqrs_replica_generation();
	MemoryContextSwitchTo(caller);
}

/* The count takes a scan of the table, the time a look into an index. */
static void
look_at_failed(CqrsDesk *desk)
{
	desk->due_at = cqrs_failed_next_due();
	if (desk->due_at == 0)
		desk->waiting = 0;
	else if (cqrs_until_after_ms(desk->counted_at, COUNT_INTERVAL_MS) == 0)
	{
		desk->waiting = cqrs_failed_count_waiting();
		desk->counted_at = GetCurrentTimestamp();
	}
	desk->stale = false;
}

static void
purge(CqrsDesk *desk)
{
	TimestampTz before =
	TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
								-INT64CONST(1000) * cqrs_dead_letter_ttl_s);

	if (cqrs_dead_letter_ttl_s > 0)
		(void) cqrs_failed_purge(before);
	desk->purged_at = GetCurrentTimestamp();
	desk->stale = true;
}
