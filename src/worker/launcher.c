/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The process that keeps workers in each database that needs them.
 *
 * The launcher is connected to no database, so it pins none.  Only a process
 * in a database can find out whether the database has the extension.  So when
 * the launcher starts, and when databases are created or dropped, it sends a
 * publisher into each database that it does not know.  A publisher that finds
 * no extension leaves at once; after one that fails before it knows, another one
 * is sent.  From then on backends ask for workers (CREATE
 * EXTENSION, or a commit that finds none) by a flag in shared memory
 * (roster.h) and the launcher's latch.
 *
 * The number of workers of a kind in a database is a setting of the kind's
 * class, such as cqrs.publishers.  It decides which worker has which work, so
 * all workers must have the same number.  When the setting has changed, they
 * are asked to end; the new number becomes current when none of them is left,
 * and then new ones are started.
 *
 * A worker that ends is started again after RESTART_DELAY_MS, unless it has
 * reported that it is not wanted any more.  The postmaster signals the end of
 * workers that this launcher has started.  Workers that an earlier launcher
 * has started set the launcher's latch themselves.  The launcher sleeps on its
 * latch, with a timeout only if something is to be started later.
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

/* Delay before a worker that has ended is started again. */
#define RESTART_DELAY_MS	1000
/* Delay before the next attempt when no worker slot is free. */
#define NO_WORKER_DELAY_MS	5000
/* Delay before a database that allows no connections is checked again. */
#define CLOSED_DELAY_MS		5000
/* The lack of a free worker slot is logged at most once in this time. */
#define WARN_INTERVAL_MS	60000
/*
 * Delay before a database is probed again, when a probe has failed; twice as
 * long after each further failure, so many times.
 */
#define PROBE_DELAY_MS		10000
#define PROBE_DELAY_DOUBLED	6

/* A kind of worker in a database, as this launcher knows it. */
typedef struct Team
{
	bool		settled;		/* its number of workers is the setting's */
	TimestampTz started_at[CQRS_MAX_LANES]; /* last start tried, 0: none */
	BackgroundWorkerHandle *handles[CQRS_MAX_LANES];	/* NULL: none */
} Team;

/* A database that the launcher looks after; known by oid, in local memory. */
typedef struct Database
{
	Oid			dboid;
	bool		probe;			/* may not have the extension */
	bool		probe_failed;	/* the last one, and it is to be tried again */
	int			failures;		/* of probes, so far */
	Team		teams[CQRS_NWORKERKINDS];
} Database;

static List *databases = NIL;

/* By kind: no worker was free, and that was logged; when it was last logged. */
static bool out_of_workers[CQRS_NWORKERKINDS] = {false};
static TimestampTz warned_at[CQRS_NWORKERKINDS] = {0};

static void detach(int code, Datum arg);
static bool take_rescan(void);
static void look_at_databases(void);
static List *read_slots(void);
static void forget_databases(List *existing, List *occupied);
static void adopt_slots(void);
static bool take_failed_probes(void);
static void hurry_probes(void);
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
						   int number);
static bool start_worker(Database *database, CqrsWorkerKind kind, int number);
static void warn_no_worker(CqrsWorkerKind kind, int number);

void
cqrs_launcher_init(void)
{
	BackgroundWorker worker = {0};

	/* pg_upgrade must have no sessions besides its own. */
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
		bool		look;

		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		look = take_failed_probes();
		if (take_rescan())
		{
			hurry_probes();
			look = true;
		}
		if (look)
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

	/* After exit code 0 the postmaster would not start the launcher again. */
	proc_exit(1);
}

/* Exit callback: backends no longer wake this process. */
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
 * Probe databases that are new, and forget those that are gone.  The slots are
 * read before pg_database: a database that had a slot and is then not found
 * has been dropped, whereas a database that takes its slot in between is new.
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
 * Free what belongs to databases that do not exist any more.  A slot must not
 * be given to another database before that, because sessions keep the number
 * of their database's slot.
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

/* Take on the databases for which a worker was asked. */
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

/*
 * Note the probes that have failed since the last call, because their databases
 * are gone, perhaps.  Returns whether there were any.
 */
static bool
take_failed_probes(void)
{
	bool		any = false;

	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	for (int i = 0; i < CQRS_MAX_PROBES; i++)
	{
		Oid		   *dboid = &cqrs_roster_server->failed_probes[i];
		Database   *database = find_database(*dboid);

		if (database != NULL)
		{
			database->probe_failed = true;
			database->failures++;
			any = true;
		}
		*dboid = InvalidOid;
	}
	LWLockRelease(cqrs_slot_lock);
	return any;
}

/* Probes that have failed may succeed now. */
static void
hurry_probes(void)
{
	ListCell   *lc;

	foreach(lc, databases)
	{
		Database   *database = lfirst(lc);

		database->failures = Min(database->failures, 1);
	}
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

/*
 * Look after one more database.  "probe": whether it has the extension is not
 * known.
 */
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
 * Start the workers that are due.  Returns the milliseconds until the next
 * start, or -1 if none is to come.  The first worker of a kind is started in
 * all databases before any second one, in case background workers are few.
 * Publishers come before consumers.
 */
static long
start_workers(void)
{
	long		wait_ms = -1;
	int			nprobes = settle_databases();

	for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
	{
		if (cqrs_kind_class(kind) == NULL)
			continue;
		for (int number = 0; number < *cqrs_kind_class(kind)->count; number++)
			wait_ms = cqrs_sooner_ms(wait_ms,
									 start_due(kind, number, &nprobes));
	}
	return wait_ms;
}

/* The same for the workers of one kind and number, of all databases. */
static long
start_due(CqrsWorkerKind kind, int number, int *nprobes)
{
	long		wait_ms = -1;
	ListCell   *lc;

	foreach(lc, databases)
	{
		Database   *database = lfirst(lc);
		long		delay_ms;

		if (is_running(database, kind, number))
			continue;
		delay_ms = start_delay_ms(database, kind, number);
		if (delay_ms < 0)
			continue;
		if (is_probe(database) && *nprobes >= CQRS_MAX_PROBES)
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
 * Whether the current number of workers of a kind in a database is the one of
 * the setting.  If not, the workers are asked to end; once none is left, the
 * number is changed.
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
		/* An earlier launcher may have started one. */
		if (!cqrs_roster_has_processes(slot, kind))
			cqrs_roster_set_count(slot, kind, *class->count);
		count = pg_atomic_read_u32(&cqrs_rosters[slot].kinds[kind].count);
		LWLockRelease(cqrs_slot_lock);
	}
	/* If the number is 0, the first worker to start sets it. */
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

/* Whether any worker of a kind runs in a database. */
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
 * The delay before a worker is started: 0 if none, -1 if it is not wanted.  A
 * database is probed by a publisher, until that does not fail.
 */
static long
start_delay_ms(const Database *database, CqrsWorkerKind kind, int number)
{
	int			slot = cqrs_slot_find(database->dboid);
	TimestampTz started_at = database->teams[kind].started_at[number];
	bool		probe = kind == CQRS_WORKER_PUBLISHER && number == 0 &&
	database->probe && (started_at == 0 || database->probe_failed);
	bool		wanted = probe;
	long		hold_ms = 0;
	long		delay_ms = 0;

	if (slot >= 0)
	{
		LWLockAcquire(cqrs_slot_lock, LW_SHARED);
		probe = probe && !cqrs_rosters[slot].kinds[kind].wanted;
		wanted = (wanted || cqrs_rosters[slot].kinds[kind].wanted) &&
			database->teams[kind].settled;
		hold_ms = cqrs_until_within_ms(cqrs_rosters[slot].hold_until,
									   CQRS_HOLD_MS);
		LWLockRelease(cqrs_slot_lock);
	}
	if (started_at != 0 && probe)
		delay_ms = cqrs_until_after_ms(started_at,
									   PROBE_DELAY_MS << Min(database->failures - 1,
															 PROBE_DELAY_DOUBLED));
	else if (started_at != 0)
		delay_ms = cqrs_until_after_ms(started_at, RESTART_DELAY_MS);
	return wanted ? Max(delay_ms, hold_ms) : -1;
}

/* Ask the postmaster for a worker.  False if no background worker is free. */
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
	database->probe_failed = false;
	if (!RegisterDynamicBackgroundWorker(&worker, &team->handles[number]))
	{
		team->handles[number] = NULL;
		if (database->probe)
			team->started_at[number] = 0;
		warn_no_worker(kind, number);
	}
	else
		out_of_workers[kind] = false;
	MemoryContextSwitchTo(caller);
	return team->handles[number] != NULL;
}

/*
 * Warn once until a start succeeds, and at most once in WARN_INTERVAL_MS in
 * case only some starts succeed.
 */
static void
warn_no_worker(CqrsWorkerKind kind, int number)
{
	if (out_of_workers[kind] ||
		cqrs_until_after_ms(warned_at[kind], WARN_INTERVAL_MS) > 0)
		return;
	out_of_workers[kind] = true;
	warned_at[kind] = GetCurrentTimestamp();
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("no background worker is free for a cqrs %s",
					cqrs_kind_class(kind)->name),
			 number == 0 ?
			 errdetail("Messages wait until a worker is free.") :
			 errdetail("The messages of lane %d wait until a worker is free.",
					   number),
			 errhint("Increase \"max_worker_processes\" and restart the server.")));
}
