/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The process that keeps workers in each database that needs them.
 *
 * It is connected to no database, so it pins none.  Only a process in a
 * database can tell whether that has the extension: when the launcher starts,
 * and when databases come and go, it sends a publisher into each database
 * that it does not know; one that finds no extension leaves at once.  From
 * then on backends ask for workers (CREATE EXTENSION, or a commit that finds
 * none) by a flag in shared memory (roster.h) and the launcher's latch.
 *
 * How many workers of a kind a database has is a setting of their class, such
 * as cqrs.publishers.  The number decides whose work is whose, so it must be one
 * for all: when the setting has changed they are asked to end, and only when
 * none is left the new number comes into force, and new ones are started.
 *
 * A worker that ends is started again after RESTART_DELAY_MS, unless it has
 * said that it is not wanted any more.  The postmaster signals the end of those
 * that this launcher has started; those that an earlier one has left set its
 * latch themselves.  The launcher sleeps on its latch, with a timeout only when
 * something is to be started later.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/slot.h"
#include "base/timing.h"
#include "worker/databases.h"
#include "worker/launcher.h"
#include "worker/roster.h"

/* A worker that ends is not started again before this. */
#define RESTART_DELAY_MS	1000
/* Without a free worker slot, this is waited before the next attempt. */
#define NO_WORKER_DELAY_MS	5000
/* A database that takes no connections is looked at again after this. */
#define CLOSED_DELAY_MS		5000
/* It is logged once in this time that there is no free worker slot. */
#define WARN_INTERVAL_MS	60000
/* Databases that are looked into at the same time. */
#define MAX_PROBES			4

/* A kind of worker in a database, as this launcher knows it. */
typedef struct Team
{
	bool		settled;		/* as many are in force as there are to be */
	TimestampTz started_at[CQRS_MAX_LANES]; /* last attempt, 0: none */
	BackgroundWorkerHandle *handles[CQRS_MAX_LANES];	/* what was started
														 * last, or NULL */
} Team;

/* A database that the launcher looks after; known by oid, in local memory. */
typedef struct Database
{
	Oid			dboid;
	bool		probe;			/* not known yet to have the extension */
	Team		teams[CQRS_NWORKERKINDS];
} Database;

static List *databases = NIL;
static bool out_of_workers = false; /* which was logged */
static TimestampTz warned_at = 0;	/* when that was logged last */

static void detach(int code, Datum arg);
static bool take_rescan(void);
static void look_at_databases(void);
static List *read_slots(void);
static void forget_databases(List *existing, List *occupied);
static void adopt_slots(void);
static bool is_wanted(int slot);
static Database *find_database(Oid dboid);
static Database *add_database(Oid dboid, bool probe);
static long start_workers(void);
static long start_due(CqrsWorkerKind kind, int number, int *nprobes);
static int	settle_databases(void);
static bool settle(Database *database, CqrsWorkerKind kind);
static bool is_probe(const Database *database);
static bool has_workers(Database *database, CqrsWorkerKind kind);
static bool is_running(Database *database, CqrsWorkerKind kind, int number);
static long start_delay_ms(const Database *database, CqrsWorkerKind kind,
						   int number, TimestampTz now);
static bool start_worker(Database *database, CqrsWorkerKind kind, int number);
static void warn_no_worker(CqrsWorkerKind kind, int number);

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
	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	cqrs_roster_server->launcher = MyLatch;
	cqrs_roster_server->rescan = true;
	LWLockRelease(cqrs_slot_lock);

	while (!ShutdownRequestPending)
	{
		long		delay_ms;

		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		if (take_rescan())
			look_at_databases();
		adopt_slots();
		delay_ms = start_workers();

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
	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	if (cqrs_roster_server->launcher == MyLatch)
		cqrs_roster_server->launcher = NULL;
	LWLockRelease(cqrs_slot_lock);
}

/* Whether the set of databases has changed since the last call. */
static bool
take_rescan(void)
{
	bool		rescan;

	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	rescan = cqrs_roster_server->rescan;
	cqrs_roster_server->rescan = false;
	LWLockRelease(cqrs_slot_lock);
	return rescan;
}

/*
 * Look into databases that are new, and forget those that are gone.  The slots
 * are read first: a database that has one by then and is not found afterwards
 * has been dropped, whereas one that takes its slot in between is new.
 */
static void
look_at_databases(void)
{
	List	   *occupied = read_slots();
	List	   *connectable;
	List	   *existing = cqrs_databases_read(&connectable);
	ListCell   *lc;

	forget_databases(existing, occupied);
	foreach(lc, connectable)
	{
		if (find_database(lfirst_oid(lc)) == NULL)
			(void) add_database(lfirst_oid(lc), true);
	}
	list_free(existing);
	list_free(connectable);
	list_free(occupied);
}

/* The databases of all slots; InvalidOid for a free one. */
static List *
read_slots(void)
{
	List	   *occupied = NIL;

	LWLockAcquire(cqrs_slot_lock, LW_SHARED);
	for (int slot = 0; slot < cqrs_slot_count(); slot++)
		occupied = lappend_oid(occupied, cqrs_slot_database(slot));
	LWLockRelease(cqrs_slot_lock);
	return occupied;
}

/*
 * Give up what belongs to databases that do not exist any more.  Only then may
 * a slot be given to another database: sessions keep the number of theirs.
 */
static void
forget_databases(List *existing, List *occupied)
{
	ListCell   *lc;

	foreach(lc, databases)
	{
		Database   *database = lfirst(lc);
		bool		keep = list_member_oid(existing, database->dboid);

		for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
			keep = keep || has_workers(database, kind);
		if (keep)
			continue;
		databases = foreach_delete_current(databases, lc);
		pfree(database);
	}

	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	for (int slot = 0; slot < cqrs_slot_count(); slot++)
	{
		Oid			dboid = cqrs_slot_database(slot);

		if (OidIsValid(dboid) && list_nth_oid(occupied, slot) == dboid &&
			!list_member_oid(existing, dboid) && !cqrs_roster_is_occupied(slot))
			cqrs_slot_free(slot);
	}
	LWLockRelease(cqrs_slot_lock);
}

/* Look after the databases for which a worker is asked. */
static void
adopt_slots(void)
{
	LWLockAcquire(cqrs_slot_lock, LW_SHARED);
	for (int slot = 0; slot < cqrs_slot_count(); slot++)
	{
		Oid			dboid = cqrs_slot_database(slot);

		if (OidIsValid(dboid) && is_wanted(slot) &&
			find_database(dboid) == NULL)
			(void) add_database(dboid, false);
	}
	LWLockRelease(cqrs_slot_lock);
}

/* Whether a worker of any kind is wanted in a database. */
static bool
is_wanted(int slot)
{
	for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
	{
		if (*(volatile bool *) &cqrs_rosters[slot].kinds[kind].wanted)
			return true;
	}
	return false;
}

static Database *
find_database(Oid dboid)
{
	ListCell   *lc;

	foreach(lc, databases)
	{
		if (((Database *) lfirst(lc))->dboid == dboid)
			return lfirst(lc);
	}
	return NULL;
}

static Database *
add_database(Oid dboid, bool probe)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	Database   *database = palloc0(sizeof(Database));

	database->dboid = dboid;
	database->probe = probe;
	databases = lappend(databases, database);
	MemoryContextSwitchTo(caller);
	return database;
}

/*
 * Start what has to be started now.  Returns the time until the next start in
 * milliseconds, or -1 when there is none to wait for.  Where background workers
 * are few, each database has the first of each kind before any has another one.
 */
static long
start_workers(void)
{
	long		wait_ms = -1;
	int			nprobes = settle_databases();

	for (int number = 0; number < CQRS_MAX_LANES; number++)
	{
		for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
		{
			if (cqrs_kind_class(kind) != NULL &&
				number < *cqrs_kind_class(kind)->count)
				wait_ms = cqrs_sooner_ms(wait_ms,
										 start_due(kind, number, &nprobes));
		}
	}
	return wait_ms;
}

/* The same for the workers of one kind and number, of all databases. */
static long
start_due(CqrsWorkerKind kind, int number, int *nprobes)
{
	TimestampTz now = GetCurrentTimestamp();
	long		wait_ms = -1;
	ListCell   *lc;

	foreach(lc, databases)
	{
		Database   *database = lfirst(lc);
		long		delay_ms;

		if (is_running(database, kind, number))
			continue;
		delay_ms = start_delay_ms(database, kind, number, now);
		if (delay_ms < 0)
			continue;
		if (is_probe(database) && *nprobes >= MAX_PROBES)
			delay_ms = RESTART_DELAY_MS;
		if (delay_ms == 0 && !cqrs_databases_is_open(database->dboid))
			delay_ms = CLOSED_DELAY_MS;
		if (delay_ms == 0)
		{
			if (start_worker(database, kind, number))
			{
				*nprobes += is_probe(database) ? 1 : 0;
				continue;
			}
			delay_ms = NO_WORKER_DELAY_MS;
		}
		wait_ms = cqrs_sooner_ms(wait_ms, delay_ms);
	}
	return wait_ms;
}

/* Check the numbers of workers; returns how many probes are under way. */
static int
settle_databases(void)
{
	int			nprobes = 0;
	ListCell   *lc;

	foreach(lc, databases)
	{
		Database   *database = lfirst(lc);

		for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
			database->teams[kind].settled = settle(database, kind);
		if (is_probe(database) &&
			is_running(database, CQRS_WORKER_PUBLISHER, 0))
			nprobes++;
	}
	return nprobes;
}

/*
 * Whether a database has as many workers of a kind in force as it is to have.
 * If not, they are asked to end, and if none is left, the number is changed.
 */
static bool
settle(Database *database, CqrsWorkerKind kind)
{
	const CqrsWorkerClass *class = cqrs_kind_class(kind);
	int			slot = cqrs_slot_find(database->dboid);
	uint32		count;

	if (slot < 0 || class == NULL)
		return false;
	count = pg_atomic_read_u32(&cqrs_rosters[slot].kinds[kind].count);
	if (count == *class->count)
		return true;
	if (!has_workers(database, kind))
	{
		LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
		/* There may be one that an earlier launcher has started. */
		if (!cqrs_roster_has_processes(slot, kind))
			cqrs_roster_set_count(slot, kind, *class->count);
		count = pg_atomic_read_u32(&cqrs_rosters[slot].kinds[kind].count);
		LWLockRelease(cqrs_slot_lock);
	}
	/* A first one that is about to start decides the number itself. */
	if (count != *class->count && count > 0)
	{
		for (int i = 0; i < CQRS_MAX_LANES; i++)
		{
			if (database->teams[kind].handles[i] != NULL)
				TerminateBackgroundWorker(database->teams[kind].handles[i]);
		}
		cqrs_roster_end(slot, kind);
	}
	return count == *class->count;
}

/* Whether a database has not shown yet that it has the extension. */
static bool
is_probe(const Database *database)
{
	int			slot = cqrs_slot_find(database->dboid);

	return database->probe && (slot < 0 || !is_wanted(slot));
}

static bool
has_workers(Database *database, CqrsWorkerKind kind)
{
	for (int number = 0; number < CQRS_MAX_LANES; number++)
	{
		if (is_running(database, kind, number))
			return true;
	}
	return false;
}

/* Whether a worker runs, or is about to, in a database. */
static bool
is_running(Database *database, CqrsWorkerKind kind, int number)
{
	BackgroundWorkerHandle **handle = &database->teams[kind].handles[number];
	int			slot = cqrs_slot_find(database->dboid);
	pid_t		pid;

	if (*handle != NULL)
	{
		if (GetBackgroundWorkerPid(*handle, &pid) != BGWH_STOPPED)
			return true;
		pfree(*handle);
		*handle = NULL;
	}
	return slot >= 0 &&
		*(volatile pid_t *) &cqrs_rosters[slot].kinds[kind].processes[number].pid != 0;
}

/*
 * How long to wait before a worker is started: 0 for now, -1 when none is
 * wanted.  A probe is made once, by a publisher.
 */
static long
start_delay_ms(const Database *database, CqrsWorkerKind kind, int number,
			   TimestampTz now)
{
	int			slot = cqrs_slot_find(database->dboid);
	TimestampTz started_at = database->teams[kind].started_at[number];
	bool		wanted = kind == CQRS_WORKER_PUBLISHER && number == 0 &&
	database->probe && started_at == 0;
	TimestampTz when = started_at == 0 ? 0 :
	TimestampTzPlusMilliseconds(started_at, RESTART_DELAY_MS);

	if (slot >= 0)
	{
		LWLockAcquire(cqrs_slot_lock, LW_SHARED);
		wanted = (wanted || cqrs_rosters[slot].kinds[kind].wanted) &&
			database->teams[kind].settled;
		when = Max(when, cqrs_rosters[slot].hold_until);
		LWLockRelease(cqrs_slot_lock);
	}
	if (!wanted)
		return -1;
	return when <= now ? 0 : TimestampDifferenceMilliseconds(now, when);
}

static bool
start_worker(Database *database, CqrsWorkerKind kind, int number)
{
	const CqrsWorkerClass *class = cqrs_kind_class(kind);
	Team	   *team = &database->teams[kind];
	BackgroundWorker worker = {0};
	int			extra[2] = {kind, number};
	MemoryContext caller;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(database->dboid);
	worker.bgw_notify_pid = MyProcPid;
	memcpy(worker.bgw_extra, extra, sizeof(extra));
	strlcpy(worker.bgw_library_name, "cqrs", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "cqrs_worker_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN,
			 *class->count == 1 ? "cqrs %s for database %u" :
			 "cqrs %s for database %u lane %d", class->name, database->dboid,
			 number);
	snprintf(worker.bgw_type, BGW_MAXLEN, "cqrs %s", class->name);

	caller = MemoryContextSwitchTo(TopMemoryContext);
	team->started_at[number] = GetCurrentTimestamp();
	if (!RegisterDynamicBackgroundWorker(&worker, &team->handles[number]))
	{
		team->handles[number] = NULL;
		if (database->probe)
			team->started_at[number] = 0;
		warn_no_worker(kind, number);
	}
	else
		out_of_workers = false;
	MemoryContextSwitchTo(caller);
	return team->handles[number] != NULL;
}

/* Once until a start succeeds, and not again and again where some do. */
static void
warn_no_worker(CqrsWorkerKind kind, int number)
{
	if (out_of_workers || cqrs_until_after_ms(warned_at, WARN_INTERVAL_MS) > 0)
		return;
	out_of_workers = true;
	warned_at = GetCurrentTimestamp();
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 number == 0 ?
			 errmsg("no background worker is free for a cqrs %s",
					cqrs_kind_class(kind)->name) :
			 errmsg("no background worker is free for lane %d of the cqrs %ss",
					number, cqrs_kind_class(kind)->name),
			 number == 0 ?
			 errdetail("Messages wait until there is one.") :
			 errdetail("The messages of this lane wait until there is one."),
			 errhint("Increase \"max_worker_processes\" and restart the server.")));
}
