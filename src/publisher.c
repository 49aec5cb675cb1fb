/*-------------------------------------------------------------------------
 *
 * publisher.c
 *	  The process that publishes the outbox of a database.
 *
 * One loop, whose turns do what is due and then wait for the latch, the
 * socket, or the next thing that is due:
 *
 *	  database	in a transaction of its own: see whether the extension is
 *				still there and publishing paused, save the watermark, recycle
 *				segments, read messages into the window
 *	  connect	when there is a URL and no connection, and it is time
 *	  send		from the window, up to cqrs.confirm_window unconfirmed ones
 *	  receive	confirms, returned messages, the broker's requests
 *
 * No transaction, and so no snapshot or lock, is open while the broker is
 * waited for.  States and their successors: CqrsPublisherState in shared.h.
 *
 * What survives an error.  A failure of the transport is no error: the
 * connection is closed, everything unconfirmed is sent again after a delay
 * that doubles up to a limit.  An error of PostgreSQL's ends the process; the
 * launcher starts it again, and it derives its work from the outbox and the
 * watermark, which is never ahead of what is confirmed.  Both ways can send a
 * message twice, with the same message id, and none can lose one.
 *
 * The window and the reader have memory contexts of their own; that of the
 * loop is reset each turn.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "guc.h"
#include "outbox.h"
#include "publisher.h"
#include "reader.h"
#include "shared.h"
#include "transport.h"
#include "url.h"
#include "window.h"

/* Messages that are sent before confirms are looked at. */
#define SEND_TURN			200
/* The watermark is saved this often while messages flow. */
#define SAVE_INTERVAL_MS	200
/* A publisher that shall end waits this long for confirms. */
#define FINISH_MS			1000
/* Segments are looked at this often. */
#define RECYCLE_INTERVAL_MS 1000
/* Holes are looked into this often when nothing else happens. */
#define HOLE_INTERVAL_MS	1000
/* Returned messages are logged this often. */
#define RETURNED_LOG_INTERVAL_MS 60000

typedef struct Publisher
{
	CqrsSlot   *slot;
	Oid			extension;		/* that it publishes for */
	CqrsWindow *window;
	CqrsReader *reader;

	bool		look;			/* woken: look at the catalog and the outbox */
	bool		paused;
	bool		more;			/* the window was full before the outbox ended */
	uint64		commits;		/* of the slot, when the outbox was last read */
	TimestampTz read_at;		/* when the outbox was last read */

	int64		saved_watermark;
	TimestampTz saved_at;
	bool		recycle;		/* the watermark has moved since segments were
								 * last looked at */
	TimestampTz recycled_at;

	const CqrsTransport *transport;
	CqrsConnection *connection; /* NULL: none */
	char	   *url;			/* of the connection */
	char	   *exchange;
	bool		blocked;		/* by the broker */
	int			failures;		/* since a message was confirmed */
	TimestampTz connect_at;		/* not before this */
	TimestampTz confirmed_at;	/* last sign of progress of the window */
	TimestampTz returned_logged_at;
	char		last_failure[CQRS_TRANSPORT_ERROR_BYTES];
} Publisher;

static void override_settings(void);
static void handle_sigterm(SIGNAL_ARGS);
static bool attach(Publisher *publisher);
static void detach(int code, Datum arg);
static void run(Publisher *publisher);
static void finish(Publisher *publisher);
static void reload_settings(Publisher *publisher);
static void database_turn(Publisher *publisher);
static bool read_is_due(const Publisher *publisher);
static bool save_is_due(const Publisher *publisher);
static void check_extension(Publisher *publisher);
static bool read_paused(void);
static void save_watermark(Publisher *publisher);
static bool recycle_is_due(const Publisher *publisher);
static void recycle_segments(Publisher *publisher);
static void connection_turn(Publisher *publisher);
static void open_connection(Publisher *publisher);
static void close_connection(Publisher *publisher, bool politely);
static void connection_failed(Publisher *publisher, const char *reason);
static void send_turn(Publisher *publisher);
static void receive_turn(Publisher *publisher);
static void handle_event(Publisher *publisher, const CqrsEvent *event);
static void message_returned(Publisher *publisher, const char *routing_key);
static void check_confirm_timeout(Publisher *publisher);
static void show_state(Publisher *publisher);
static void show_progress(Publisher *publisher);
static void wait_turn(Publisher *publisher);
static long wait_time_ms(Publisher *publisher);
static long sooner(long a, long b);
static long until_ms(TimestampTz when);

void
cqrs_publisher_main(Datum arg)
{
	Oid			dboid = DatumGetObjectId(arg);
	Publisher  *publisher;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, handle_sigterm);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);

	override_settings();

	publisher = MemoryContextAllocZero(TopMemoryContext, sizeof(Publisher));
	publisher->transport = &cqrs_transport_amqp;
	if (!attach(publisher))
		proc_exit(0);

	PG_TRY();
	{
		run(publisher);
	}
	PG_CATCH();
	{
		MemoryContext error_context = MemoryContextSwitchTo(TopMemoryContext);
		ErrorData  *error = CopyErrorData();

		cqrs_shared_set_error(publisher->slot, error->message);
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
 * Also ends what the transport is waiting for.  No die(): with it, the process
 * would end at the next check for interrupts, without finish().
 */
static void
handle_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	ShutdownRequestPending = true;
	cqrs_transport_amqp.interrupt();
	SetLatch(MyLatch);
	errno = save_errno;
}

/*
 * Become the publisher of the database; false when it does not have the
 * extension, or has a publisher.
 */
static bool
attach(Publisher *publisher)
{
	const CqrsObjects *objects;
	int64		watermark = 0;
	bool		first;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	objects = cqrs_catalog_objects(true);
	if (objects != NULL)
	{
		publisher->extension = objects->extension;
		watermark = cqrs_outbox_watermark();
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	if (objects == NULL)
	{
		publisher->slot = cqrs_shared_slot(MyDatabaseId, false);
		if (publisher->slot != NULL)
		{
			LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
			publisher->slot->wanted = false;
			LWLockRelease(cqrs_shared->lock);
		}
		return false;
	}

	publisher->slot = cqrs_shared_my_slot();
	LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
	first = publisher->slot->pid == 0;
	if (first)
	{
		publisher->slot->pid = MyProcPid;
		publisher->slot->latch = MyLatch;
		publisher->slot->wanted = true;
		publisher->slot->started_at = GetCurrentTimestamp();
		pg_atomic_write_u32(&publisher->slot->state, CQRS_STARTING);
	}
	LWLockRelease(cqrs_shared->lock);
	if (!first)
		return false;

	before_shmem_exit(detach, PointerGetDatum(publisher));
	publisher->window = cqrs_window_create();
	publisher->reader = cqrs_reader_create(watermark);
	publisher->saved_watermark = watermark;
	publisher->look = true;
	publisher->more = true;
	show_progress(publisher);
	return true;
}

static void
detach(int code, Datum arg)
{
	Publisher  *publisher = (Publisher *) DatumGetPointer(arg);
	CqrsSlot   *slot = publisher->slot;

	LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
	slot->pid = 0;
	slot->latch = NULL;
	slot->connected_at = 0;
	pg_atomic_write_u32(&slot->state, CQRS_STOPPED);
	if (cqrs_shared->launcher != NULL)
		SetLatch(cqrs_shared->launcher);
	LWLockRelease(cqrs_shared->lock);
	ConditionVariableBroadcast(&slot->left);
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

		if (ConfigReloadPending)
			reload_settings(publisher);
		database_turn(publisher);
		connection_turn(publisher);
		send_turn(publisher);
		receive_turn(publisher);
		show_state(publisher);
		show_progress(publisher);
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

	receive_turn(publisher);
	while (publisher->connection != NULL && until_ms(deadline) > 0 &&
		   cqrs_window_unconfirmed(publisher->window) > 0)
	{
		(void) WaitLatchOrSocket(MyLatch,
								 WL_SOCKET_READABLE | WL_TIMEOUT |
								 WL_EXIT_ON_PM_DEATH,
								 publisher->transport->socket(publisher->connection),
								 until_ms(deadline), PG_WAIT_EXTENSION);
		receive_turn(publisher);
	}

	if (cqrs_reader_watermark(publisher->reader, publisher->window) !=
		publisher->saved_watermark)
	{
		StartTransactionCommand();
		cqrs_outbox_set_watermark(cqrs_reader_watermark(publisher->reader,
														publisher->window));
		CommitTransactionCommand();
	}
	if (publisher->connection != NULL)
		close_connection(publisher, false);
}

static void
reload_settings(Publisher *publisher)
{
	const char *url;

	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);

	url = cqrs_guc_url();
	publisher->connect_at = 0;
	publisher->failures = 0;
	publisher->last_failure[0] = '\0';
	if (publisher->connection != NULL &&
		(url == NULL || strcmp(url, publisher->url) != 0 ||
		 strcmp(cqrs_exchange, publisher->exchange) != 0))
		close_connection(publisher, true);
}

static void
database_turn(Publisher *publisher)
{
	MemoryContext turn = CurrentMemoryContext;
	bool		read = read_is_due(publisher);
	bool		save = save_is_due(publisher);
	bool		recycle = recycle_is_due(publisher);

	if (!publisher->look && !read && !save && !recycle)
		return;
	publisher->look = false;

	pgstat_report_activity(STATE_RUNNING, "reading the outbox");
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());

	check_extension(publisher);
	publisher->paused = read_paused();
	if (save)
		save_watermark(publisher);
	if (recycle)
		recycle_segments(publisher);
	if (read)
	{
		/* Before reading: what commits meanwhile is read next time. */
		publisher->commits = pg_atomic_read_u64(&publisher->slot->commits);
		publisher->read_at = GetCurrentTimestamp();
		PopActiveSnapshot();
		PushActiveSnapshot(GetTransactionSnapshot());
		publisher->more = cqrs_reader_read(publisher->reader,
										   publisher->window);
	}

	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(turn);
	(void) pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* Only with a connection: before, it would only fill memory. */
static bool
read_is_due(const Publisher *publisher)
{
	if (publisher->connection == NULL ||
		cqrs_window_unsent(publisher->window) > cqrs_confirm_window / 2 ||
		!cqrs_window_has_room(publisher->window))
		return false;
	return publisher->more ||
		publisher->commits != pg_atomic_read_u64(&publisher->slot->commits) ||
		(cqrs_reader_has_holes(publisher->reader) &&
		 until_ms(TimestampTzPlusMilliseconds(publisher->read_at,
											  HOLE_INTERVAL_MS)) == 0);
}

static bool
save_is_due(const Publisher *publisher)
{
	if (cqrs_window_bytes(publisher->window) > 0 &&
		until_ms(TimestampTzPlusMilliseconds(publisher->saved_at,
											 SAVE_INTERVAL_MS)) > 0)
		return false;
	return cqrs_reader_watermark(publisher->reader, publisher->window) !=
		publisher->saved_watermark;
}

/* Leave when the extension is gone, or has been created anew. */
static void
check_extension(Publisher *publisher)
{
	const CqrsObjects *objects = cqrs_catalog_objects(true);

	if (objects != NULL && objects->extension == publisher->extension)
		return;
	if (objects == NULL)
	{
		LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
		publisher->slot->wanted = false;
		LWLockRelease(cqrs_shared->lock);
	}
	proc_exit(1);
}

/* The row of cqrs.publisher says whether publishing is paused. */
static bool
read_paused(void)
{
	Relation	rel = table_open(cqrs_catalog_objects(false)->publisher,
								 AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0,
										  NULL);
	HeapTuple	tuple = systable_getnext(scan);
	bool		paused = false;
	bool		isnull;

	if (HeapTupleIsValid(tuple))
		paused = DatumGetBool(heap_getattr(tuple, 1, RelationGetDescr(rel),
										   &isnull));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return paused;
}

static void
save_watermark(Publisher *publisher)
{
	int64		watermark = cqrs_reader_watermark(publisher->reader,
												  publisher->window);
	TimestampTz now = GetCurrentTimestamp();

	if (watermark != publisher->saved_watermark)
		cqrs_outbox_set_watermark(watermark);
	publisher->saved_watermark = watermark;
	publisher->saved_at = now;

	publisher->recycle = true;
}

/* Look for segments to empty, some time after the watermark has moved. */
static bool
recycle_is_due(const Publisher *publisher)
{
	return publisher->recycle &&
		until_ms(TimestampTzPlusMilliseconds(publisher->recycled_at,
											 RECYCLE_INTERVAL_MS)) == 0;
}

static void
recycle_segments(Publisher *publisher)
{
	publisher->recycle = false;
	publisher->recycled_at = GetCurrentTimestamp();
	cqrs_outbox_recycle(publisher->saved_watermark,
						cqrs_window_bytes(publisher->window) == 0 &&
						!publisher->more);
}

static void
connection_turn(Publisher *publisher)
{
	if (publisher->connection != NULL)
	{
		if (publisher->paused)
			close_connection(publisher, true);
		return;
	}
	if (!publisher->paused && cqrs_guc_url() != NULL &&
		until_ms(publisher->connect_at) == 0)
		open_connection(publisher);
}

static void
open_connection(Publisher *publisher)
{
	CqrsConnectOptions options;
	char		error[CQRS_TRANSPORT_ERROR_BYTES];

	options.url = cqrs_guc_url();
	options.exchange = cqrs_exchange;
	options.heartbeat_s = cqrs_heartbeat_s;
	options.connect_timeout_ms = cqrs_connect_timeout_ms;

	pg_atomic_write_u32(&publisher->slot->state, CQRS_CONNECTING);
	pgstat_report_activity(STATE_RUNNING, "connecting to the broker");
	publisher->connection = publisher->transport->connect(&options, error);
	pgstat_report_activity(STATE_IDLE, NULL);
	/* The transport may have taken notice of the latch. */
	publisher->look = true;
	if (publisher->connection == NULL)
	{
		connection_failed(publisher, error);
		return;
	}

	publisher->url = MemoryContextStrdup(TopMemoryContext, options.url);
	publisher->exchange = MemoryContextStrdup(TopMemoryContext,
											  options.exchange);
	publisher->blocked = false;
	publisher->confirmed_at = GetCurrentTimestamp();
	cqrs_window_rewind(publisher->window);

	pg_atomic_fetch_add_u64(&publisher->slot->connects, 1);
	LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
	publisher->slot->connected_at = publisher->confirmed_at;
	LWLockRelease(cqrs_shared->lock);
	ereport(LOG,
			(errmsg("cqrs publisher connected to \"%s\", exchange \"%s\"",
					cqrs_url_mask(publisher->url), publisher->exchange)));
}

static void
close_connection(Publisher *publisher, bool politely)
{
	publisher->transport->close(publisher->connection, politely);
	publisher->connection = NULL;
	explicit_bzero(publisher->url, strlen(publisher->url));
	pfree(publisher->url);
	pfree(publisher->exchange);
	cqrs_window_rewind(publisher->window);
	LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
	publisher->slot->connected_at = 0;
	LWLockRelease(cqrs_shared->lock);
}

/*
 * Give up the connection, if there is one, and put the next attempt off: by a
 * delay that doubles with each failure, a random quarter of it less.  The
 * same failure is logged once.
 */
static void
connection_failed(Publisher *publisher, const char *reason)
{
	double		delay_ms = cqrs_reconnect_delay_ms;

	if (publisher->connection != NULL)
		close_connection(publisher, false);
	if (ShutdownRequestPending)
		return;

	delay_ms *= (double) (UINT64CONST(1) << Min(publisher->failures, 30));
	delay_ms = Min(delay_ms, cqrs_reconnect_delay_max_ms);
	delay_ms *= 1.0 - 0.25 * cqrs_random();
	publisher->failures++;
	publisher->connect_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														(int64) delay_ms);

	cqrs_shared_set_error(publisher->slot, reason);
	if (strcmp(reason, publisher->last_failure) != 0)
	{
		strlcpy(publisher->last_failure, reason,
				sizeof(publisher->last_failure));
		ereport(LOG,
				(errmsg("cqrs publisher has no connection to the broker: %s",
						reason),
				 errdetail("Messages wait in the outbox; attempts to connect go on.")));
	}
}

static void
send_turn(Publisher *publisher)
{
	char		expires[CQRS_EXPIRES_LEN + 1];
	int			expires_ttl_s = -1; /* what "expires" was made for */

	if (publisher->connection == NULL || publisher->blocked)
		return;

	if (cqrs_window_unconfirmed(publisher->window) == 0)
		publisher->confirmed_at = GetCurrentTimestamp();
	for (int i = 0; i < SEND_TURN; i++)
	{
		CqrsOutgoing *message = cqrs_window_next_unsent(publisher->window);
		CqrsEnvelope envelope;
		char		message_id[128];
		char		error[CQRS_TRANSPORT_ERROR_BYTES];

		if (message == NULL ||
			cqrs_window_unconfirmed(publisher->window) >= cqrs_confirm_window)
			break;

		if (message->expires_at >= 0)
		{
			if (expires_ttl_s != message->ttl_s)
			{
				expires_ttl_s = message->ttl_s;
				cqrs_message_expires(expires,
									 TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
																 expires_ttl_s * INT64CONST(1000)));
			}
			memcpy(message->body + message->expires_at, expires,
				   CQRS_EXPIRES_LEN);
		}
		snprintf(message_id, sizeof(message_id), UINT64_FORMAT "-%u-%u-" INT64_FORMAT,
				 GetSystemIdentifier(), MyDatabaseId, publisher->extension,
				 message->id);
		envelope.exchange = message->exchange != NULL ? message->exchange :
			publisher->exchange;
		envelope.routing_key = message->routing_key;
		envelope.message_id = message_id;
		envelope.correlation_id = message->correlation_id;
		envelope.timestamp = message->committed_at;
		envelope.body = message->body;
		envelope.body_length = message->body_length;
		if (!publisher->transport->publish(publisher->connection, &envelope,
										   error))
		{
			connection_failed(publisher, error);
			return;
		}
		cqrs_window_sent(publisher->window);
		pg_atomic_fetch_add_u64(&publisher->slot->published, 1);
	}
}

static void
receive_turn(Publisher *publisher)
{
	while (publisher->connection != NULL)
	{
		CqrsEvent	event;
		char		error[CQRS_TRANSPORT_ERROR_BYTES];

		publisher->transport->poll(publisher->connection, &event, error);
		if (event.kind == CQRS_EVENT_NONE)
			break;
		if (event.kind == CQRS_EVENT_FAILED)
			connection_failed(publisher, error);
		else
			handle_event(publisher, &event);
	}
	if (publisher->connection != NULL)
		check_confirm_timeout(publisher);
}

static void
handle_event(Publisher *publisher, const CqrsEvent *event)
{
	switch (event->kind)
	{
		case CQRS_EVENT_ACK:
			pg_atomic_fetch_add_u64(&publisher->slot->confirmed,
									cqrs_window_confirm(publisher->window,
														event->tag,
														event->multiple));
			publisher->confirmed_at = GetCurrentTimestamp();
			publisher->failures = 0;
			publisher->last_failure[0] = '\0';
			break;

		case CQRS_EVENT_NACK:
			/* Sent again in its place, so that the row's order holds. */
			pg_atomic_fetch_add_u64(&publisher->slot->nacked, 1);
			connection_failed(publisher, "broker refused a message with basic.nack");
			break;

		case CQRS_EVENT_RETURNED:
			message_returned(publisher, event->text);
			break;

		case CQRS_EVENT_BLOCKED:
			publisher->blocked = true;
			ereport(LOG,
					(errmsg("cqrs publisher is blocked by the broker: %s",
							event->text)));
			break;

		case CQRS_EVENT_UNBLOCKED:
			publisher->blocked = false;
			publisher->confirmed_at = GetCurrentTimestamp();
			ereport(LOG,
					(errmsg("cqrs publisher is no longer blocked by the broker")));
			break;

		case CQRS_EVENT_NONE:
		case CQRS_EVENT_FAILED:
			break;
	}
}

/* No queue is bound for it.  As with django-cqrs, it is gone; say so. */
static void
message_returned(Publisher *publisher, const char *routing_key)
{
	pg_atomic_fetch_add_u64(&publisher->slot->returned, 1);
	if (until_ms(TimestampTzPlusMilliseconds(publisher->returned_logged_at,
											 RETURNED_LOG_INTERVAL_MS)) > 0)
		return;
	publisher->returned_logged_at = GetCurrentTimestamp();
	ereport(LOG,
			(errmsg("no queue is bound for messages with routing key \"%s\"",
					routing_key),
			 errdetail("The broker has dropped them; cqrs.stats counts them as returned."),
			 errhint("Start a replica that binds its queue to exchange \"%s\".",
					 publisher->exchange)));
}

static void
check_confirm_timeout(Publisher *publisher)
{
	if (cqrs_confirm_timeout_ms == 0 || publisher->blocked ||
		cqrs_window_unconfirmed(publisher->window) == 0 ||
		until_ms(TimestampTzPlusMilliseconds(publisher->confirmed_at,
											 cqrs_confirm_timeout_ms)) > 0)
		return;
	connection_failed(publisher, "no confirm within \"cqrs.confirm_timeout\"");
}

static void
show_state(Publisher *publisher)
{
	CqrsPublisherState state;

	if (publisher->paused)
		state = CQRS_PAUSED;
	else if (cqrs_guc_url() == NULL)
		state = CQRS_UNCONFIGURED;
	else if (publisher->connection == NULL)
		state = CQRS_WAITING;
	else if (publisher->blocked)
		state = CQRS_BLOCKED;
	else
		state = CQRS_PUBLISHING;
	pg_atomic_write_u32(&publisher->slot->state, state);
}

/* For those who wait until their messages are confirmed. */
static void
show_progress(Publisher *publisher)
{
	int64		min_id = cqrs_window_min_id(publisher->window);
	int64		watermark = cqrs_reader_watermark(publisher->reader,
												  publisher->window);
	uint64		unconfirmed = 0;

	if (!publisher->more)
		unconfirmed = min_id == PG_INT64_MAX ? PG_UINT64_MAX :
			cqrs_batch_of(min_id);
	cqrs_shared_set_progress(publisher->slot, unconfirmed, publisher->commits,
							 cqrs_batch_of(watermark + 1));
}

/* Wait until something is to be done. */
static void
wait_turn(Publisher *publisher)
{
	long		timeout_ms = wait_time_ms(publisher);
	int			wake = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;
	int			events;

	if (timeout_ms == 0)
	{
		CHECK_FOR_INTERRUPTS();
		return;
	}
	if (timeout_ms > 0)
		wake |= WL_TIMEOUT;
	if (publisher->connection != NULL)
		events = WaitLatchOrSocket(MyLatch, wake | WL_SOCKET_READABLE,
								   publisher->transport->socket(publisher->connection),
								   timeout_ms, PG_WAIT_EXTENSION);
	else
		events = WaitLatch(MyLatch, wake, timeout_ms, PG_WAIT_EXTENSION);
	if (events & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		publisher->look = true;
	}
}

/* How long nothing has to be done: 0 for not at all, -1 for ever. */
static long
wait_time_ms(Publisher *publisher)
{
	long		wait_ms = -1;

	if (ShutdownRequestPending || ConfigReloadPending ||
		read_is_due(publisher) || save_is_due(publisher) ||
		recycle_is_due(publisher))
		return 0;
	if (publisher->recycle)
		wait_ms = until_ms(TimestampTzPlusMilliseconds(publisher->recycled_at,
													   RECYCLE_INTERVAL_MS));

	if (publisher->connection == NULL)
	{
		if (!publisher->paused && cqrs_guc_url() != NULL)
			wait_ms = sooner(wait_ms, until_ms(publisher->connect_at));
	}
	else
	{
		if (!publisher->blocked &&
			cqrs_window_unsent(publisher->window) > 0 &&
			cqrs_window_unconfirmed(publisher->window) < cqrs_confirm_window)
			return 0;
		if (cqrs_heartbeat_s > 0)
			wait_ms = sooner(wait_ms, cqrs_heartbeat_s * 1000L / 2);
		if (cqrs_window_unconfirmed(publisher->window) > 0 &&
			cqrs_confirm_timeout_ms > 0 && !publisher->blocked)
			wait_ms = sooner(wait_ms,
							 until_ms(TimestampTzPlusMilliseconds(publisher->confirmed_at,
																  cqrs_confirm_timeout_ms)));
		if (cqrs_reader_has_holes(publisher->reader))
			wait_ms = sooner(wait_ms, HOLE_INTERVAL_MS);
	}
	if (cqrs_reader_watermark(publisher->reader, publisher->window) !=
		publisher->saved_watermark)
		wait_ms = sooner(wait_ms, SAVE_INTERVAL_MS);
	return wait_ms;
}

static long
sooner(long a, long b)
{
	return a < 0 ? b : Min(a, b);
}

/* Milliseconds from now, 0 when it has passed. */
static long
until_ms(TimestampTz when)
{
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), when);
}
