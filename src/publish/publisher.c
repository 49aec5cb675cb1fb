/*-------------------------------------------------------------------------
 *
 * publisher.c
 *	  The process that publishes the outbox of a database, or one of several
 *	  that share it (lane.c).
 *
 * One loop, whose turns do what is due and then wait for the latch, the
 * socket, or the next thing that is due:
 *
 *	  backlog	the database: save the watermark, recycle, read (backlog.c)
 *	  link		the broker: connect, send, receive (link.c)
 *
 * No transaction, and so no snapshot or lock, is open while the broker is
 * waited for.  States and their successors: CqrsPublisherState in shared.h.
 *
 * What survives an error.  A failure of the transport is no error (link.c).
 * An error of PostgreSQL's ends the process; the launcher starts it again, and
 * it derives its work from the outbox and the watermark, which is never ahead
 * of what is confirmed.
 *
 * The window and the reader have memory contexts of their own; that of the
 * loop is reset each turn.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/objects.h"
#include "base/shared.h"
#include "base/timing.h"
#include "publish/backlog.h"
#include "publish/hold.h"
#include "publish/lane.h"
#include "publish/link.h"
#include "publish/publisher.h"
#include "publish/window.h"

/* A publisher that shall end waits this long for confirms. */
#define FINISH_MS			1000

typedef struct Publisher
{
	CqrsPlace	place;
	CqrsWindow *window;
	CqrsHolds  *holds;
	CqrsBacklog *backlog;
	CqrsLink   *link;
} Publisher;

static void override_settings(void);
static void handle_sigterm(SIGNAL_ARGS);
static bool attach(Publisher *publisher, int lane);
static Oid	look_up(void);
static void set_up(Publisher *publisher, Oid extension);
static void detach(int code, Datum arg);
static void run(Publisher *publisher);
static void finish(Publisher *publisher);
static void reload_settings(Publisher *publisher);
static void show_state(Publisher *publisher);
static void wait_turn(Publisher *publisher);

void
cqrs_publisher_main(Datum arg)
{
	Oid			dboid = DatumGetObjectId(arg);
	Publisher  *publisher;
	int			lane;

	memcpy(&lane, MyBgworkerEntry->bgw_extra, sizeof(lane));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, handle_sigterm);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);

	override_settings();

	publisher = MemoryContextAllocZero(TopMemoryContext, sizeof(Publisher));
	if (!attach(publisher, lane))
		proc_exit(0);

	PG_TRY();
	{
		run(publisher);
	}
	PG_CATCH();
	{
		MemoryContext error_context = MemoryContextSwitchTo(TopMemoryContext);
		ErrorData  *error = CopyErrorData();

		cqrs_shared_set_error(publisher->place.lane, error->message);
		MemoryContextSwitchTo(error_context);
		PG_RE_THROW();
	}
	PG_END_TRY();

	finish(publisher);
	proc_exit(1);
}

/* What the defaults of the server or the database must not change. */
static void
override_settings(void)
{
	const char *settings[][2] = {
		/* A crash sets the watermark back a little; waiting would cost more. */
		{"synchronous_commit", "off"},
		/* A commit that was counted has to be seen by the next snapshot. */
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"statement_timeout", "0"},
		/* Who waits for a lock does not see the request to shut down. */
		{"lock_timeout", "1s"},
		{"idle_in_transaction_session_timeout", "0"}
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_USERSET,
						PGC_S_OVERRIDE);
}

/*
 * What waits for the broker waits for the latch as well.  No die(): with it,
 * the process would end at the next check for interrupts, without finish().
 */
static void
handle_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	ShutdownRequestPending = true;
	SetLatch(MyLatch);
	errno = save_errno;
}

/*
 * Become that lane of the database; false when it does not have the extension,
 * or has that lane.
 */
static bool
attach(Publisher *publisher, int lane)
{
	CqrsSlot   *slot = cqrs_shared_slot(MyDatabaseId, false);
	uint32		calls = slot == NULL ? 0 : pg_atomic_read_u32(&slot->calls);
	Oid			extension = look_up();

	if (!OidIsValid(extension))
	{
		if (slot != NULL)
			cqrs_shared_unwant_publisher(slot, calls);
		return false;
	}

	if (!cqrs_lane_attach(&publisher->place, lane))
		return false;
	before_shmem_exit(detach, PointerGetDatum(publisher));
	set_up(publisher, extension);
	return true;
}

/* The extension of the database, InvalidOid when there is none. */
static Oid
look_up(void)
{
	const CqrsObjects *objects;
	Oid			extension = InvalidOid;

	StartTransactionCommand();
	objects = cqrs_catalog_objects(true);
	if (objects != NULL)
		extension = objects->extension;
	CommitTransactionCommand();
	return extension;
}

static void
set_up(Publisher *publisher, Oid extension)
{
	publisher->window = cqrs_window_create();
	publisher->holds = cqrs_holds_create();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	publisher->backlog = cqrs_backlog_create(&publisher->place, extension,
											 publisher->window,
											 publisher->holds);
	PopActiveSnapshot();
	CommitTransactionCommand();
	publisher->link = cqrs_link_create(&publisher->place, publisher->window,
									   publisher->holds);
}

static void
detach(int code, Datum arg)
{
	cqrs_lane_detach(&((Publisher *) DatumGetPointer(arg))->place);
}

static void
run(Publisher *publisher)
{
	MemoryContext turn = AllocSetContextCreate(TopMemoryContext,
											   "cqrs publisher turn",
											   ALLOCSET_DEFAULT_SIZES);

	while (!ShutdownRequestPending)
	{
		MemoryContextSwitchTo(turn);
		MemoryContextReset(turn);

		/* Barriers, too: DROP DATABASE waits for everybody. */
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
			reload_settings(publisher);
		cqrs_backlog_turn(publisher->backlog,
						  cqrs_link_is_open(publisher->link));
		cqrs_link_identify(publisher->link,
						   cqrs_backlog_identity(publisher->backlog));
		cqrs_link_turn(publisher->link,
					   cqrs_backlog_paused(publisher->backlog));
		cqrs_link_send(publisher->link);
		cqrs_link_receive(publisher->link);
		show_state(publisher);
		cqrs_backlog_show_progress(publisher->backlog);
		wait_turn(publisher);
	}
}

/*
 * Wait a little for the confirms of what has been sent, and save what is
 * confirmed: so that an orderly end does not make messages be sent twice.
 */
static void
finish(Publisher *publisher)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   FINISH_MS);
	bool		more = cqrs_link_receive(publisher->link);

	while (cqrs_link_is_open(publisher->link) &&
		   cqrs_until_ms(deadline) > 0 &&
		   cqrs_window_unconfirmed(publisher->window) > 0)
	{
		bool		write;
		pgsocket	socket = cqrs_link_socket(publisher->link, &write);

		(void) WaitLatchOrSocket(MyLatch,
								 WL_SOCKET_READABLE | WL_TIMEOUT |
								 (write ? WL_SOCKET_WRITEABLE : 0) |
								 WL_EXIT_ON_PM_DEATH,
								 socket, more ? 0 : cqrs_until_ms(deadline),
								 cqrs_wait_event(CQRS_WAIT_FINISH));
		more = cqrs_link_receive(publisher->link);
	}
	cqrs_backlog_finish(publisher->backlog);
	cqrs_link_close(publisher->link);
}

static void
reload_settings(Publisher *publisher)
{
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	cqrs_link_reload(publisher->link);
}

static void
show_state(Publisher *publisher)
{
	pg_atomic_write_u32(&publisher->place.lane->state,
						cqrs_backlog_paused(publisher->backlog) ? CQRS_PAUSED :
						cqrs_link_state(publisher->link));
}

/* Wait until something is to be done. */
static void
wait_turn(Publisher *publisher)
{
	bool		connected = cqrs_link_is_open(publisher->link);
	bool		paused = cqrs_backlog_paused(publisher->backlog);
	int			wake = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;
	bool		write;
	pgsocket	socket = cqrs_link_socket(publisher->link, &write);
	long		timeout_ms;
	pg_atomic_uint32 *listens = &publisher->place.lane->listens;

	/*
	 * First listen, then see whether there is anything to do: a commit counts
	 * itself before it looks who listens (shared.c), so one of the two
	 * notices the other.
	 */
	pg_atomic_write_u32(listens,
						cqrs_backlog_waits_for_commits(publisher->backlog,
													   connected));
	pg_memory_barrier();
	timeout_ms = cqrs_sooner_ms(cqrs_backlog_wait_ms(publisher->backlog,
													 connected),
								cqrs_link_wait_ms(publisher->link, paused));
	if (timeout_ms == 0 || ShutdownRequestPending || ConfigReloadPending)
	{
		/* With a broker that never falls silent, there is no other place. */
		if (!PostmasterIsAlive())
			proc_exit(1);
		return;
	}
	if (timeout_ms > 0)
		wake |= WL_TIMEOUT;
	if (connected)
		wake |= WL_SOCKET_READABLE | (write ? WL_SOCKET_WRITEABLE : 0);
	if (WaitLatchOrSocket(MyLatch, wake, socket, timeout_ms,
						  cqrs_wait_event(CQRS_WAIT_PUBLISHER)) & WL_LATCH_SET)
		ResetLatch(MyLatch);
	pg_atomic_write_u32(listens, 0);
}
