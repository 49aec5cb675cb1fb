/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  A process that serves a database: its entry point and its loop.
 *
 * A turn does what is due and then waits for the latch, a socket, or the time
 * when something else is due.  The class (kind.h) defines the work.  No
 * transaction, and so no snapshot or lock, is open while a process waits.
 *
 * An ERROR ends the process, and the launcher starts it again.  The memory
 * context of a turn is reset before the next turn; data that lives longer is
 * in contexts of its owner.
 *
 * Settings.  pin.c has those of PostgreSQL that a worker sets for itself before it
 * connects.
 *
 * Settings of cqrs itself are those of the server and of the database; check
 * hooks refuse those of roles (guc.c).  When settings of the database change, the
 * process ends in order and is started anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "base/caught.h"
#include "base/compat.h"
#include "base/error_context.h"
#include "base/objects.h"
#include "base/slot.h"
#include "worker/discovery.h"
#include "worker/pin.h"
#include "worker/roster.h"
#include "worker/watch.h"
#include "worker/worker.h"

#define BROKER_BYTES	280

static CqrsWorker *here = NULL; /* this process */
static volatile sig_atomic_t cancellable = false;
static volatile sig_atomic_t committing = false;
static volatile sig_atomic_t given_up = false;
static volatile sig_atomic_t failing = false;
static bool finishing = false;
static char *database = NULL;	/* its name; before it is changed, workers
								 * leave */
static char broker[BROKER_BYTES] = "";

/* What roster.h counts, as of the time when this process read its settings. */
static uint32 resettled;

static void connect_database(Oid dboid);
static void handle_sigint(SIGNAL_ARGS);
static void give_up(void);
static void handle_sigterm(SIGNAL_ARGS);
static bool attach(CqrsWorker *worker);
static uint32 count_settings(int slot);
static void add_context(void *arg);
static Oid	find_extension(void);
static void notice_new_settings(const CqrsWorker *worker);
static void finish(CqrsWorker *worker);
static void finish_given_up(int code, Datum arg);
static void detach(int code, Datum arg);
static bool set_up(CqrsWorker *worker);
static void run(CqrsWorker *worker);
static void wait_turn(CqrsWorker *worker);
static CqrsRosterProcess *process_of(const CqrsWorker *worker, int number);

void
cqrs_worker_main(Datum dboid)
{
	CqrsWorker *worker = MemoryContextAllocZero(TopMemoryContext,
												sizeof(CqrsWorker));
	ErrorContextCallback context;
	int			extra[2];

	memcpy(extra, MyBgworkerEntry->bgw_extra, sizeof(extra));
	worker->kind = extra[0];
	worker->number = extra[1];
	here = worker;
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGINT, handle_sigint);
	pqsignal(SIGTERM, handle_sigterm);
	BackgroundWorkerUnblockSignals();
	cqrs_pin_settings(cqrs_kind_class(worker->kind)->durable_commits);
	worker->slot = cqrs_slot_find(DatumGetObjectId(dboid));
	resettled = count_settings(worker->slot);
	connect_database(DatumGetObjectId(dboid));

	if (!attach(worker))
		proc_exit(0);
	cqrs_error_context_push(&context, add_context, worker);

	PG_TRY();
	{
		if (!set_up(worker))
			proc_exit(0);
		before_shmem_exit(finish_given_up, PointerGetDatum(worker));
		run(worker);
	}
	PG_CATCH();
	{
		MemoryContext error_context = MemoryContextSwitchTo(TopMemoryContext);
		ErrorData  *error = cqrs_caught_copy();

		cqrs_worker_set_error(error->message);
		MemoryContextSwitchTo(error_context);
		PG_RE_THROW();
	}
	PG_END_TRY();

	finish(worker);
	proc_exit(1);
}

void
cqrs_worker_set_state(int state)
{
	pg_atomic_write_u32(&process_of(here, here->number)->state, state);
}

void
cqrs_worker_set_connected(bool connected)
{
	CqrsRosterProcess *process = process_of(here, here->number);

	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	process->connected_at = connected ? GetCurrentTimestamp() : 0;
	LWLockRelease(cqrs_slot_lock);
	if (connected)
		cqrs_worker_count(CQRS_WORKER_CONNECTS, 1);
}

void
cqrs_worker_set_error(const char *message)
{
	CqrsRosterProcess *process = process_of(here, here->number);

	/* Cut at the end of a character. */
	int			length = pg_mbcliplen(message, strlen(message),
									  CQRS_ERROR_BYTES - 1);

	cqrs_worker_count(CQRS_WORKER_ERRORS, 1);
	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	memcpy(process->last_error, message, length);
	process->last_error[length] = '\0';
	process->last_error_at = GetCurrentTimestamp();
	LWLockRelease(cqrs_slot_lock);
}

void
cqrs_worker_set_advice(const char *advice)
{
	CqrsRosterProcess *process = process_of(here, here->number);
	int			length = pg_mbcliplen(advice, strlen(advice),
									  CQRS_ADVICE_BYTES - 1);

	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	memcpy(process->advice, advice, length);
	process->advice[length] = '\0';
	LWLockRelease(cqrs_slot_lock);
}

void
cqrs_worker_count(int counter, int64 n)
{
	pg_atomic_fetch_add_u64(&process_of(here, here->number)->counters[counter],
							n);
}

void
cqrs_worker_set_counter(int counter, int64 n)
{
	pg_atomic_write_u64(&process_of(here, here->number)->counters[counter], n);
}

void
cqrs_worker_set_broker(const char *address)
{
	strlcpy(broker, address, sizeof(broker));
}

uint32
cqrs_worker_calls(const CqrsWorker *worker)
{
	return pg_atomic_read_u32(&cqrs_rosters[worker->slot].kinds[worker->kind].calls);
}

void
cqrs_worker_unwant(const CqrsWorker *worker, uint32 calls)
{
	CqrsRosterKind *workers = &cqrs_rosters[worker->slot].kinds[worker->kind];

	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	if (cqrs_worker_calls(worker) == calls)
		workers->wanted = workers->kept = false;
	LWLockRelease(cqrs_slot_lock);
}

void
cqrs_worker_wake(const CqrsWorker *worker, int number)
{
	/* No lock is needed: setting a stale latch does no harm. */
	Latch	   *latch = *(Latch *volatile *) &process_of(worker, number)->latch;

	if (latch != NULL)
		SetLatch(latch);
}

bool
cqrs_worker_is_connected(const CqrsWorker *worker, int number)
{
	bool		connected;

	LWLockAcquire(cqrs_slot_lock, LW_SHARED);
	connected = process_of(worker, number)->connected_at != 0;
	LWLockRelease(cqrs_slot_lock);
	return connected;
}

void
cqrs_worker_set_cancellable(bool value)
{
	cancellable = value;
	committing = false;
	if (value && ShutdownRequestPending)
		give_up();
	else if (!value)
	{
		/* The work that was to be given up has come to its end. */
		QueryCancelPending = false;
		ProcDiePending = given_up = failing = false;
	}
}

void
cqrs_worker_fail(void)
{
	failing = true;
	InterruptPending = true;
	ProcDiePending = true;
	SetLatch(MyLatch);
}

void
cqrs_worker_begin_commit(void)
{
	committing = true;
	CHECK_FOR_INTERRUPTS();
	cqrs_worker_ensure_durable();
}

void
cqrs_worker_ensure_durable(void)
{
	if (synchronous_commit < SYNCHRONOUS_COMMIT_ON)
		SetConfigOption("synchronous_commit", "on", PGC_SUSET,
						IsTransactionState() ? PGC_S_SESSION :
						PGC_S_OVERRIDE);
}

bool
cqrs_worker_is_here(void)
{
	return here != NULL;
}

/* Connect as the bootstrap superuser, whatever role the settings name. */
static void
connect_database(Oid dboid)
{
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	if (GetSessionUserId() != GetAuthenticatedUserId())
		SetSessionAuthorization(GetAuthenticatedUserId(), true);
}

/* A user's request to cancel, or a timeout. */
static void
handle_sigint(SIGNAL_ARGS)
{
	if (!committing)
		StatementCancelHandler(CQRS_PASS_SIGNAL_ARGS);
}

/* The process ends at the next check for interrupts.  Safe in signal handlers. */
static void
give_up(void)
{
	given_up = true;
	InterruptPending = true;
	ProcDiePending = true;
}

/*
 * Every wait for a broker is a wait for the latch as well, and most work is
 * brought to its end.  Users' code is given up: a request to cancel would not
 * do, because that code can catch the error and go on.
 */
static void
handle_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	ShutdownRequestPending = true;
	if (cancellable)
		give_up();
	SetLatch(MyLatch);
	errno = save_errno;
}

/*
 * Enter the roster.  Returns false if the database does not have the
 * extension, or has that worker already.  A database without the extension
 * takes no slot.
 */
static bool
attach(CqrsWorker *worker)
{
	bool		had_slot = worker->slot >= 0;
	uint32		calls = 0;
	uint32		changes;

	if (had_slot)
		calls = cqrs_worker_calls(worker);
	worker->extension = find_extension();
	if (!OidIsValid(worker->extension))
	{
		if (worker->slot >= 0)
			cqrs_worker_unwant(worker, calls);
		cqrs_discovery_absent(MyDatabaseId);
		return false;
	}

	if (!cqrs_roster_enter(worker))
		return false;
	before_shmem_exit(detach, PointerGetDatum(worker));
	if (had_slot)
		return true;

	/*
	 * Nobody could count for the database before.  Settings that may have
	 * changed since they were read are read again, by another process.  The
	 * database has its slot now, so that happens once.
	 */
	changes = count_settings(worker->slot);
	pg_read_barrier();
	if (count_settings(-1) != resettled)
		return false;
	resettled = changes;
	return true;
}

/* Changes of the settings of a database, by its slot; -1: of any database. */
static uint32
count_settings(int slot)
{
	return pg_atomic_read_u32(slot >= 0 ? &cqrs_rosters[slot].resettled :
							  &cqrs_roster_server->resettled);
}

/* A server has many workers: say which one writes to the log. */
static void
add_context(void *arg)
{
	const char *name = cqrs_kind_class(((CqrsWorker *) arg)->kind)->name;

	if (broker[0] == '\0')
		errcontext("cqrs %s of database \"%s\"", name, database);
	else
		errcontext("cqrs %s of database \"%s\", broker %s", name, database,
				   broker);
}

/*
 * End if the settings of the database have changed.  The process that the
 * launcher starts instead has the new settings.  Within a process, PostgreSQL
 * has no way back from the setting of a database to the setting of the server.
 */
static void
notice_new_settings(const CqrsWorker *worker)
{
	if (count_settings(worker->slot) == resettled)
		return;
	ShutdownRequestPending = true;
	ereport(LOG,
			(errmsg("cqrs %s ends, because settings of its database have changed",
					cqrs_kind_class(worker->kind)->name),
			 errdetail("A new process starts with the new settings.")));
}

/* The extension of the database, InvalidOid when there is none. */
static Oid
find_extension(void)
{
	const CqrsObjects *objects;
	Oid			extension = InvalidOid;

	StartTransactionCommand();
	objects = cqrs_objects_get(true);
	if (objects != NULL)
	{
		char	   *name = get_database_name(MyDatabaseId);

		extension = objects->extension;
		database = MemoryContextStrdup(TopMemoryContext,
									   name != NULL ? name : "");
	}
	CommitTransactionCommand();
	return extension;
}

/*
 * Have the class end in order.  If finish() raises an error, it is not called
 * again.
 */
static void
finish(CqrsWorker *worker)
{
	finishing = true;
	cqrs_kind_class(worker->kind)->finish(worker);
}

/*
 * Exit callback: users' code was given up.  Its transaction is aborted first, as
 * in PostgreSQL's own callbacks that need one.  Waits have to see their timeouts.
 */
static void
finish_given_up(int code, Datum arg)
{
	if (!given_up || failing || finishing)
		return;
	cqrs_worker_set_cancellable(false);
	disable_all_timeouts(false);
	AbortOutOfAnyTransaction();
	RESUME_INTERRUPTS();
	finish((CqrsWorker *) DatumGetPointer(arg));
	HOLD_INTERRUPTS();
}

/* Exit callback: the roster forgets this process. */
static void
detach(int code, Datum arg)
{
	cqrs_roster_leave((CqrsWorker *) DatumGetPointer(arg));
}

/*
 * Returns false if the class has nothing to do here; the worker is then not
 * wanted.
 */
static bool
set_up(CqrsWorker *worker)
{
	uint32		calls = cqrs_worker_calls(worker);
	bool		wanted;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	cqrs_watch_begin(worker, calls);
	MemoryContextSwitchTo(TopMemoryContext);
	wanted = cqrs_kind_class(worker->kind)->set_up(worker);
	PopActiveSnapshot();
	CommitTransactionCommand();
	if (!wanted)
		cqrs_worker_unwant(worker, calls);
	return wanted;
}

/* The loop: turns, until the process is asked to end. */
static void
run(CqrsWorker *worker)
{
	MemoryContext turn = AllocSetContextCreate(TopMemoryContext,
											   "cqrs worker turn",
											   ALLOCSET_DEFAULT_SIZES);

	while (!ShutdownRequestPending)
	{
		MemoryContextSwitchTo(turn);
		MemoryContextReset(turn);

		/*
		 * This also handles barriers: DROP DATABASE waits for every process.
		 */
		CHECK_FOR_INTERRUPTS();
		worker->reloaded = ConfigReloadPending;
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		cqrs_watch_turn(worker);
		notice_new_settings(worker);
		if (ShutdownRequestPending)
			break;
		cqrs_kind_class(worker->kind)->turn(worker);
		wait_turn(worker);
	}
}

/* Wait until something is to be done. */
static void
wait_turn(CqrsWorker *worker)
{
	const CqrsWorkerClass *class = cqrs_kind_class(worker->kind);
	pg_atomic_uint32 *listens = &process_of(worker, worker->number)->listens;
	CqrsWait	wait = {PGINVALID_SOCKET, false, -1};
	int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;

	/*
	 * Listen before checking for work.  A commit counts itself before it
	 * checks who listens, so at least one of the two notices the other.
	 */
	pg_atomic_write_u32(listens, class->listens(worker));
	pg_memory_barrier();
	class->wait(worker, &wait);
	Assert(!IsTransactionState() && !ActiveSnapshotSet());	/* I16 */
	if (wait.timeout_ms == 0 || ShutdownRequestPending || ConfigReloadPending)
	{
		/*
		 * A broker that never falls silent would keep WaitLatchOrSocket(),
		 * which notices the postmaster's death, from being reached.
		 */
		if (!PostmasterIsAlive())
			proc_exit(1);
		return;
	}
	if (wait.timeout_ms > 0)
		events |= WL_TIMEOUT;
	if (wait.socket != PGINVALID_SOCKET)
		events |= WL_SOCKET_READABLE | (wait.write ? WL_SOCKET_WRITEABLE : 0);
	if (WaitLatchOrSocket(MyLatch, events, wait.socket, wait.timeout_ms,
						  cqrs_wait_event(class->wait_event)) & WL_LATCH_SET)
		ResetLatch(MyLatch);
	pg_atomic_write_u32(listens, 0);
}

/* The roster entry of a process of a worker's kind and database. */
static CqrsRosterProcess *
process_of(const CqrsWorker *worker, int number)
{
	return &cqrs_rosters[worker->slot].kinds[worker->kind].processes[number];
}
