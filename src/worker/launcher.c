/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The process that keeps publishers in each database that needs them.
 *
 * It is connected to no database, so it pins none.  Only a process in a
 * database can tell whether that has the extension: when the launcher starts,
 * and when databases come and go, it sends a publisher into each database
 * that it does not know; one that finds no extension leaves at once.  From
 * then on backends ask for a publisher (CREATE EXTENSION, or a commit that
 * finds none) by a flag in the database's slot and the launcher's latch.
 *
 * A database has cqrs.publishers publishers, its lanes.  Their number decides
 * whose message is whose, so it must be one for all: when the setting has
 * changed they are told to end, and only when none is left the new number comes
 * into force, in the database's slot, and new ones are started.
 *
 * A publisher that ends is started again after RESTART_DELAY_MS, unless it
 * has said that it is not wanted any more.  The postmaster tells the launcher
 * of the end of those that it has started; those that an earlier launcher has
 * left set its latch themselves.  The launcher sleeps on its latch, with a
 * timeout only when something is to be started later.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/guc.h"
#include "worker/launcher.h"
#include "base/shared.h"
#include "base/timing.h"

/* A publisher that ends is not started again before this. */
#define RESTART_DELAY_MS	1000
/* Without a free worker slot, this is waited before the next attempt. */
#define NO_WORKER_DELAY_MS	5000
/* A database that takes no connections is looked at again after this. */
#define CLOSED_DELAY_MS		5000
/* It is logged once in this time that there is no free worker slot. */
#define WARN_INTERVAL_MS	60000
/* Databases that are looked into at the same time. */
#define MAX_PROBES			4

/* A database that the launcher looks after; known by oid, in local memory. */
typedef struct Charge
{
	Oid			dboid;
	bool		probe;			/* not known yet to have the extension */
	bool		settled;		/* it has as many lanes as it is to have */
	TimestampTz started_at[CQRS_MAX_LANES]; /* last attempt, 0: none */
	BackgroundWorkerHandle *workers[CQRS_MAX_LANES];	/* what was started
														 * last, or NULL */
} Charge;

static List *charges = NIL;
static bool out_of_workers = false; /* which was logged */
static TimestampTz warned_at = 0;	/* when that was logged last */

static void detach(int code, Datum arg);
static void look_at_databases(void);
static List *read_databases(List **connectable);
static void forget_databases(List *existing);
static void adopt_slots(void);
static Charge *find_charge(Oid dboid);
static Charge *add_charge(Oid dboid, bool probe);
static long start_publishers(void);
static int	settle_charges(void);
static bool settle(Charge *charge);
static bool is_probe(const Charge *charge);
static bool has_publishers(Charge *charge);
static bool is_running(Charge *charge, int lane);
static long start_delay_ms(const Charge *charge, int lane, TimestampTz now);
static bool is_open(Oid dboid);
static bool start_publisher(Charge *charge, int lane);
static void warn_no_worker(int lane);

void
cqrs_launcher_init(void)
{
	BackgroundWorker worker = {0};

	/* pg_upgrade wants no other sessions. */
	if (IsBinaryUpgrade)
		return;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, "cqrs", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "cqrs_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "cqrs launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "cqrs launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

void
cqrs_launcher_main(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	before_shmem_exit(detach, (Datum) 0);
	LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
	cqrs_shared->launcher = MyLatch;
	cqrs_shared->rescan = true;
	LWLockRelease(cqrs_shared->lock);

	while (!ShutdownRequestPending)
	{
		long		delay_ms;
		bool		rescan;

		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
		rescan = cqrs_shared->rescan;
		cqrs_shared->rescan = false;
		LWLockRelease(cqrs_shared->lock);

		if (rescan)
			look_at_databases();
		adopt_slots();
		delay_ms = start_publishers();

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
						 (delay_ms >= 0 ? WL_TIMEOUT : 0),
						 delay_ms, cqrs_wait_event(CQRS_WAIT_LAUNCHER));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}

	/* Not 0: the postmaster would not start it again. */
	proc_exit(1);
}

static void
detach(int code, Datum arg)
{
	LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
	if (cqrs_shared->launcher == MyLatch)
		cqrs_shared->launcher = NULL;
	LWLockRelease(cqrs_shared->lock);
}

/* Look into databases that are new, and forget those that are gone. */
static void
look_at_databases(void)
{
	List	   *connectable;
	List	   *existing = read_databases(&connectable);
	ListCell   *lc;

	forget_databases(existing);
	foreach(lc, connectable)
	{
		if (find_charge(lfirst_oid(lc)) == NULL)
			(void) add_charge(lfirst_oid(lc), true);
	}
	list_free(existing);
	list_free(connectable);
}

/*
 * All databases; and in *connectable those that allow connections and are no
 * templates.
 */
static List *
read_databases(List **connectable)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *existing = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	*connectable = NIL;
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext transaction = MemoryContextSwitchTo(caller);

		existing = lappend_oid(existing, database->oid);
		if (database->datallowconn && !database->datistemplate)
			*connectable = lappend_oid(*connectable, database->oid);
		MemoryContextSwitchTo(transaction);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return existing;
}

/*
 * Give up what belongs to databases that do not exist any more.  Only then may
 * a slot be given to another database: sessions keep a pointer to theirs.
 */
static void
forget_databases(List *existing)
{
	ListCell   *lc;

	foreach(lc, charges)
	{
		Charge	   *charge = lfirst(lc);

		if (list_member_oid(existing, charge->dboid) || has_publishers(charge))
			continue;
		charges = foreach_delete_current(charges, lc);
		pfree(charge);
	}

	LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cqrs_shared->nslots; i++)
	{
		CqrsSlot   *slot = &cqrs_shared->slots[i];

		if (OidIsValid(slot->dboid) && !cqrs_shared_is_occupied(slot) &&
			!list_member_oid(existing, slot->dboid))
			slot->dboid = InvalidOid;
	}
	LWLockRelease(cqrs_shared->lock);
}

/* Look after the databases for which a publisher is asked. */
static void
adopt_slots(void)
{
	LWLockAcquire(cqrs_shared->lock, LW_SHARED);
	for (int i = 0; i < cqrs_shared->nslots; i++)
	{
		CqrsSlot   *slot = &cqrs_shared->slots[i];

		if (OidIsValid(slot->dboid) && slot->wanted &&
			find_charge(slot->dboid) == NULL)
			(void) add_charge(slot->dboid, false);
	}
	LWLockRelease(cqrs_shared->lock);
}

static Charge *
find_charge(Oid dboid)
{
	ListCell   *lc;

	foreach(lc, charges)
	{
		if (((Charge *) lfirst(lc))->dboid == dboid)
			return lfirst(lc);
	}
	return NULL;
}

static Charge *
add_charge(Oid dboid, bool probe)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	Charge	   *charge = palloc0(sizeof(Charge));

	charge->dboid = dboid;
	charge->probe = probe;
	charges = lappend(charges, charge);
	MemoryContextSwitchTo(caller);
	return charge;
}

/*
 * Start what has to be started now.  Returns the time until the next start in
 * milliseconds, or -1 when there is none to wait for.  Where workers are few,
 * each database has its lane 0 before any has another one.
 */
static long
start_publishers(void)
{
	TimestampTz now = GetCurrentTimestamp();
	long		wait_ms = -1;
	int			nprobes = settle_charges();

	for (int lane = 0; lane < cqrs_publishers; lane++)
	{
		ListCell   *lc;

		foreach(lc, charges)
		{
			Charge	   *charge = lfirst(lc);
			long		delay_ms;

			if (is_running(charge, lane))
				continue;
			delay_ms = start_delay_ms(charge, lane, now);
			if (delay_ms < 0)
				continue;
			if (is_probe(charge) && nprobes >= MAX_PROBES)
				delay_ms = RESTART_DELAY_MS;
			if (delay_ms == 0 && !is_open(charge->dboid))
				delay_ms = CLOSED_DELAY_MS;
			if (delay_ms == 0)
			{
				if (start_publisher(charge, lane))
				{
					nprobes += is_probe(charge) ? 1 : 0;
					continue;
				}
				delay_ms = NO_WORKER_DELAY_MS;
			}
			if (wait_ms < 0 || delay_ms < wait_ms)
				wait_ms = delay_ms;
		}
	}
	return wait_ms;
}

/* See to the number of lanes; returns how many probes are under way. */
static int
settle_charges(void)
{
	int			nprobes = 0;
	ListCell   *lc;

	foreach(lc, charges)
	{
		Charge	   *charge = lfirst(lc);

		charge->settled = settle(charge);
		if (is_probe(charge) && is_running(charge, 0))
			nprobes++;
	}
	return nprobes;
}

/*
 * Whether a database has as many lanes in force as it is to have.  If not, they
 * are told to end, and if none is left, the number is changed.
 */
static bool
settle(Charge *charge)
{
	CqrsSlot   *slot = cqrs_shared_slot(charge->dboid, false);
	uint32		nlanes;

	if (slot == NULL)
		return false;
	nlanes = pg_atomic_read_u32(&slot->nlanes);
	if (nlanes == cqrs_publishers)
		return true;
	if (!has_publishers(charge))
	{
		LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
		/* There may be one that an earlier launcher has started. */
		if (!cqrs_shared_is_occupied(slot))
			cqrs_shared_set_lanes(slot, cqrs_publishers);
		nlanes = pg_atomic_read_u32(&slot->nlanes);
		LWLockRelease(cqrs_shared->lock);
	}
	/* A first one that is about to start decides the number itself. */
	if (nlanes != cqrs_publishers && nlanes > 0)
	{
		for (int lane = 0; lane < CQRS_MAX_LANES; lane++)
		{
			if (charge->workers[lane] != NULL)
				TerminateBackgroundWorker(charge->workers[lane]);
		}
		cqrs_shared_end_publishers(slot);
	}
	return nlanes == cqrs_publishers;
}

/* Whether a database has not shown yet that it has the extension. */
static bool
is_probe(const Charge *charge)
{
	CqrsSlot   *slot = cqrs_shared_slot(charge->dboid, false);

	return charge->probe && (slot == NULL || !*(volatile bool *) &slot->wanted);
}

static bool
has_publishers(Charge *charge)
{
	for (int lane = 0; lane < CQRS_MAX_LANES; lane++)
	{
		if (is_running(charge, lane))
			return true;
	}
	return false;
}

/* Whether a publisher runs, or is about to, in a database. */
static bool
is_running(Charge *charge, int lane)
{
	CqrsSlot   *slot = cqrs_shared_slot(charge->dboid, false);
	pid_t		pid;

	if (charge->workers[lane] != NULL)
	{
		if (GetBackgroundWorkerPid(charge->workers[lane], &pid) != BGWH_STOPPED)
			return true;
		pfree(charge->workers[lane]);
		charge->workers[lane] = NULL;
	}
	return slot != NULL && *(volatile pid_t *) &slot->lanes[lane].pid != 0;
}

/*
 * How long to wait before a publisher is started: 0 for now, -1 when none is
 * wanted.  A probe is made once.
 */
static long
start_delay_ms(const Charge *charge, int lane, TimestampTz now)
{
	CqrsSlot   *slot = cqrs_shared_slot(charge->dboid, false);
	TimestampTz started_at = charge->started_at[lane];
	bool		wanted = lane == 0 && charge->probe && started_at == 0;
	TimestampTz when = started_at == 0 ? 0 :
	TimestampTzPlusMilliseconds(started_at, RESTART_DELAY_MS);

	if (slot != NULL)
	{
		LWLockAcquire(cqrs_shared->lock, LW_SHARED);
		wanted = (wanted || slot->wanted) && charge->settled;
		when = Max(when, slot->hold_until);
		LWLockRelease(cqrs_shared->lock);
	}
	if (!wanted)
		return -1;
	return when <= now ? 0 : TimestampDifferenceMilliseconds(now, when);
}

/* Whether a database is there and takes connections; else none is tried. */
static bool
is_open(Oid dboid)
{
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		open;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_database_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(dboid));
	scan = systable_beginscan(rel, DatabaseOidIndexId,
							  criticalSharedRelcachesBuilt, NULL, 1, &key);
	tuple = systable_getnext(scan);
	open = HeapTupleIsValid(tuple) &&
		((Form_pg_database) GETSTRUCT(tuple))->datallowconn;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return open;
}

static bool
start_publisher(Charge *charge, int lane)
{
	BackgroundWorker worker = {0};
	MemoryContext caller;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(charge->dboid);
	worker.bgw_notify_pid = MyProcPid;
	memcpy(worker.bgw_extra, &lane, sizeof(lane));
	strlcpy(worker.bgw_library_name, "cqrs", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "cqrs_publisher_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN,
			 cqrs_publishers == 1 ? "cqrs publisher for database %u" :
			 "cqrs publisher for database %u lane %d", charge->dboid, lane);
	strlcpy(worker.bgw_type, "cqrs publisher", BGW_MAXLEN);

	caller = MemoryContextSwitchTo(TopMemoryContext);
	charge->started_at[lane] = GetCurrentTimestamp();
	if (!RegisterDynamicBackgroundWorker(&worker, &charge->workers[lane]))
	{
		charge->workers[lane] = NULL;
		if (charge->probe)
			charge->started_at[lane] = 0;
		warn_no_worker(lane);
	}
	else
		out_of_workers = false;
	MemoryContextSwitchTo(caller);
	return charge->workers[lane] != NULL;
}

/* Once until a start succeeds, and not again and again where some do. */
static void
warn_no_worker(int lane)
{
	if (out_of_workers || cqrs_until_after_ms(warned_at, WARN_INTERVAL_MS) > 0)
		return;
	out_of_workers = true;
	warned_at = GetCurrentTimestamp();
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 lane == 0 ?
			 errmsg("no background worker is free for a cqrs publisher") :
			 errmsg("no background worker is free for lane %d of the cqrs publishers",
					lane),
			 lane == 0 ?
			 errdetail("Messages wait in the outbox until there is one.") :
			 errdetail("The messages of this lane wait in the outbox until there is one."),
			 errhint("Increase \"max_worker_processes\" and restart the server.")));
}
