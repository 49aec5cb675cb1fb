/*-------------------------------------------------------------------------
 *
 * wake.c
 *	  How backends reach the workers and the launcher.
 *
 * A request of a command or function is carried out when its transaction has
 * ended, because other sessions cannot see its changes before.  Rolling back
 * to a savepoint does not cancel a request: a worker that finds nothing to do
 * costs little.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/slot.h"
#include "base/timing.h"
#include "worker/discovery.h"
#include "worker/roster.h"
#include "worker/wake.h"

/* The longest time that such a command waits for workers to leave. */
#define VACATE_WAIT_MS	5000

static bool want_at_commit[CQRS_NWORKERKINDS];
static bool vacated = false;	/* workers have left the current database */
static bool rescan_at_commit = false;

/* Databases, in TopTransactionContext. */
static List *resettled_at_commit = NIL;

static void wait_until_left(int slot, Oid dboid);
static void at_transaction_end(XactEvent event, void *arg);

void
cqrs_wake_init(void)
{
	RegisterXactCallback(at_transaction_end, NULL);
}

void
cqrs_wake_listeners(CqrsWorkerKind kind)
{
	int			slot = cqrs_slot_mine();

	if (!cqrs_roster_wake(slot, kind, false) &&
		!*(volatile bool *) &cqrs_rosters[slot].kinds[kind].wanted)
		cqrs_wake_want(kind);
}

void
cqrs_wake_want(CqrsWorkerKind kind)
{
	int			slot = cqrs_slot_mine();
	CqrsRosterKind *workers = &cqrs_rosters[slot].kinds[kind];

	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	workers->wanted = true;
	cqrs_rosters[slot].hold_until = 0;
	pg_atomic_fetch_add_u32(&workers->calls, 1);
	(void) cqrs_roster_wake(slot, kind, true);
	cqrs_roster_wake_launcher();
	LWLockRelease(cqrs_slot_lock);
}

void
cqrs_wake_wanted(CqrsWorkerKind kind)
{
	if (*(volatile bool *) &cqrs_rosters[cqrs_slot_mine()].kinds[kind].wanted)
		cqrs_wake_want(kind);
}

void
cqrs_wake_want_at_commit(CqrsWorkerKind kind)
{
	/* Taking a slot can fail, so it is done before the commit. */
	(void) cqrs_slot_mine();
	want_at_commit[kind] = true;
}

void
cqrs_wake_rescan_at_commit(void)
{
	rescan_at_commit = true;
}

void
cqrs_wake_resettle_at_commit(Oid dboid)
{
	MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);

	resettled_at_commit = list_append_unique_oid(resettled_at_commit, dboid);
	MemoryContextSwitchTo(caller);
}

void
cqrs_wake_vacate(Oid dboid)
{
	int			slot = cqrs_slot_find(dboid);

	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	/* A publisher may be about to find the extension. */
	if (slot < 0 && cqrs_discovery_is_sent(dboid))
		slot = cqrs_slot_take(dboid);
	if (slot >= 0)
		cqrs_rosters[slot].hold_until =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), CQRS_HOLD_MS);
	LWLockRelease(cqrs_slot_lock);
	if (slot < 0)
		return;
	if (dboid == MyDatabaseId)
		vacated = true;
	for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
		cqrs_roster_end(slot, kind);
	wait_until_left(slot, dboid);
}

/*
 * A worker that is just starting may have read the old settings.  If its database
 * has no slot yet, the worker looks at the count of the server.
 */
void
cqrs_wake_resettle(Oid dboid)
{
	int			slot;

	pg_atomic_fetch_add_u32(&cqrs_roster_server->resettled, 1);
	slot = cqrs_slot_find(dboid);
	if (slot < 0)
		return;
	pg_atomic_fetch_add_u32(&cqrs_rosters[slot].resettled, 1);
	for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
		(void) cqrs_roster_wake(slot, kind, true);
}

/* Wait until no worker is in the database, or its slot has been freed. */
static void
wait_until_left(int slot, Oid dboid)
{
	CqrsRoster *roster = &cqrs_rosters[slot];
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   VACATE_WAIT_MS);

	ConditionVariablePrepareToSleep(&roster->left);
	for (;;)
	{
		bool		gone;
		long		wait_ms;

		LWLockAcquire(cqrs_slot_lock, LW_SHARED);
		gone = cqrs_slot_database(slot) != dboid ||
			!cqrs_roster_is_occupied(slot);
		LWLockRelease(cqrs_slot_lock);

		wait_ms = cqrs_until_within_ms(deadline, VACATE_WAIT_MS);
		if (gone || wait_ms == 0)
			break;
		ConditionVariableTimedSleep(&roster->left, wait_ms,
									cqrs_wait_event(CQRS_WAIT_VACATE));
	}
	ConditionVariableCancelSleep();
}

/* Carry out what the transaction has requested. */
static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
	{
		/*
		 * Vacated workers come back also after a rollback, even a partial
		 * one.
		 */
		if (vacated || (want_at_commit[kind] && event == XACT_EVENT_COMMIT))
			cqrs_wake_want(kind);
		want_at_commit[kind] = false;
	}
	vacated = false;
	if (rescan_at_commit && event == XACT_EVENT_COMMIT)
	{
		LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
		cqrs_roster_server->rescan = true;
		cqrs_roster_wake_launcher();
		LWLockRelease(cqrs_slot_lock);
	}
	rescan_at_commit = false;
	if (event == XACT_EVENT_COMMIT)
	{
		ListCell   *lc;

		foreach(lc, resettled_at_commit)
			cqrs_wake_resettle(lfirst_oid(lc));
	}
	resettled_at_commit = NIL;
}
