/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The process that keeps workers in each database that needs them.
 *
 * The launcher is connected to no database, so it pins none.  When it starts,
 * and when databases are created or dropped, it has a publisher look into each
 * database that it does not know (discovery.h).  From then on backends ask for
 * workers (CREATE EXTENSION, or a commit that finds none) by a flag in shared
 * memory (roster.h) and the launcher's latch.
 *
 * The postmaster signals the end of workers that this launcher has started.
 * Workers that an earlier launcher has started set the launcher's latch
 * themselves.  The launcher sleeps on its latch, with a timeout only if
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

#include "base/compat.h"
#include "base/slot.h"
#include "base/timing.h"
#include "worker/databases.h"
#include "worker/discovery.h"
#include "worker/launcher.h"
#include "worker/pin.h"
#include "worker/roster.h"
#include "worker/team.h"

/* Delay before the next attempt when no worker slot is free. */
#define NO_WORKER_DELAY_MS	5000
/* Delay before a database that allows no connections is checked again. */
#define CLOSED_DELAY_MS		5000

/* A database that the launcher looks after; in local memory. */
typedef struct Database
{
	Oid			dboid;
	CqrsDiscovery discovery;
	CqrsTeam	teams[CQRS_NWORKERKINDS];
} Database;

static List *databases = NIL;

static void detach(int code, Datum arg);
static bool take_rescan(void);
static void look_at_databases(void);
static List *read_slots(void);
static void forget_databases(List *existing, List *occupied);
static void adopt_slots(void);
static bool end_discoveries(void);
static void hurry_discoveries(void);
static bool is_wanted(int slot);
static Database *find_database(Oid dboid);
static Database *add_database(Oid dboid);
static long start_workers(void);
static void settle_databases(void);
static long start_due(CqrsWorkerKind kind, int number);
static bool start_worker(Database *database, CqrsWorkerKind kind, int number,
						 bool discover);

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
	cqrs_pin_settings(false);
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	before_shmem_exit(detach, (Datum) 0);
	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	cqrs_roster_server->launcher = MyLatch;
	cqrs_roster_server->rescan = true;
	LWLockRelease(cqrs_slot_lock);
	cqrs_discovery_reset();

	while (!ShutdownRequestPending)
	{
		long		delay_ms;
		bool		look;

		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		look = end_discoveries();
		if (take_rescan())
		{
			hurry_discoveries();
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
 * Have new databases looked at, and forget those that are gone.  The slots are
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
			add_database(lfirst_oid(lc))->discovery.due = true;
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

		keep = keep || database->discovery.sent;
		for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
			keep = keep || cqrs_team_is_any_running(&database->teams[kind]);
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
			(void) add_database(dboid);
	}
	LWLockRelease(cqrs_slot_lock);
}

/*
 * Note which looks into a database have come to their end.  Returns whether any
 * has failed: its database is gone, perhaps.
 */
static bool
end_discoveries(void)
{
	bool		failed = false;
	ListCell   *lc;

	foreach(lc, databases)
	{
		Database   *database = lfirst(lc);
		int			slot = cqrs_slot_find(database->dboid);
		bool		found = slot >= 0 && is_wanted(slot);

		if (!database->discovery.sent ||
			(!found &&
			 cqrs_team_is_running(&database->teams[CQRS_WORKER_PUBLISHER], 0)))
			continue;
		if (!cqrs_discovery_end(&database->discovery, database->dboid, found))
			failed = true;
	}
	return failed;
}

/* Looks that have failed may succeed now. */
static void
hurry_discoveries(void)
{
	ListCell   *lc;

	foreach(lc, databases)
		cqrs_discovery_hurry(&((Database *) lfirst(lc))->discovery);
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

/* Look after one more database. */
static Database *
add_database(Oid dboid)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	Database   *database = palloc0(sizeof(Database));

	database->dboid = dboid;
	for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
	{
		database->teams[kind].dboid = dboid;
		database->teams[kind].kind = kind;
	}
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

	settle_databases();
	for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
	{
		if (cqrs_kind_class(kind) == NULL)
			continue;
		for (int number = 0; number < *cqrs_kind_class(kind)->count; number++)
			wait_ms = cqrs_sooner_ms(wait_ms, start_due(kind, number));
	}
	return wait_ms;
}

static void
settle_databases(void)
{
	ListCell   *lc;

	foreach(lc, databases)
	{
		for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
			cqrs_team_settle(&((Database *) lfirst(lc))->teams[kind]);
	}
}

/* The same for one kind and number, in all databases. */
static long
start_due(CqrsWorkerKind kind, int number)
{
	long		wait_ms = -1;
	ListCell   *lc;

	foreach(lc, databases)
	{
		Database   *database = lfirst(lc);
		CqrsTeam   *team = &database->teams[kind];
		long		discover_ms = -1;
		long		delay_ms;

		if (cqrs_team_is_running(team, number))
			continue;
		if (kind == CQRS_WORKER_PUBLISHER && number == 0)
			discover_ms = cqrs_discovery_delay_ms(&database->discovery);
		delay_ms = cqrs_team_delay_ms(team, number, discover_ms);
		if (delay_ms < 0)
			continue;
		if (delay_ms == 0 && !cqrs_databases_is_open(database->dboid))
			delay_ms = CLOSED_DELAY_MS;
		if (delay_ms == 0)
		{
			if (start_worker(database, kind, number, discover_ms == 0))
				continue;
			delay_ms = NO_WORKER_DELAY_MS;
		}
		wait_ms = cqrs_sooner_ms(wait_ms, delay_ms);
	}
	return wait_ms;
}

/*
 * Start a worker, to look into the database if need be.  False if no background
 * worker is free.
 */
static bool
start_worker(Database *database, CqrsWorkerKind kind, int number, bool discover)
{
	bool		started;

	/* The worker may have its answer before the next line here is run. */
	if (discover)
		cqrs_discovery_begin(&database->discovery, database->dboid);
	started = cqrs_team_start(&database->teams[kind], number);
	if (discover && !started)
		cqrs_discovery_cancel(&database->discovery, database->dboid);
	return started;
}
