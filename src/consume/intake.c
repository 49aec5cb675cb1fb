/*-------------------------------------------------------------------------
 *
 * intake.c
 *	  The consumer's connection to the broker.
 *
 * A connection takes the lease of the queue, so that one database consumes the
 * queue at a time, and no worker of django-cqrs does: see epoch.c for copies.
 * It then makes queue and bindings ready (topology.c), and consumes (feed.c).
 * While consuming is paused, a connection without the lease makes queue and
 * bindings ready and is closed: messages that a master publishes from then on
 * wait in the queue.  Such a connection removes no bindings, because another
 * database may consume the queue.
 *
 * If too much waits, the connection is closed, and begins again with one
 * message.  Not reading would not help: RabbitMQ closes a connection that does
 * not read for 30 s.
 *
 * A failure of the broker is no error.  Belongs to the consumer alone; lives
 * in TopMemoryContext.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "utils/memutils.h"

#include "base/guc.h"
#include "base/timing.h"
#include "broker/failure.h"
#include "broker/session.h"
#include "consume/epoch.h"
#include "consume/feed.h"
#include "consume/intake.h"
#include "consume/intake_log.h"
#include "consume/topology.h"
#include "worker/worker.h"

/* Failed attempts to take the lease before the first log message. */
#define LEASE_ATTEMPTS		4

struct CqrsIntake
{
	CqrsInbox  *inbox;
	CqrsSession *session;
	CqrsIntakeLog *log;
	CqrsTopology *topology;
	char	   *queue;			/* NULL: not configured yet */
	char	   *exchange;		/* cqrs.exchange */
	int64		epoch;
	bool		taking_over;
	bool		yields;			/* another database has consumed since, or
								 * this one is its copy */

	uint64		connection;		/* number of the last one */
	CqrsFeed   *feed;
	TimestampTz acked_at;		/* when a message was first acknowledged since
								 * the epoch was raised; 0: none was */
};

static bool may_connect(const CqrsIntake *intake);
static long epoch_wait_ms(const CqrsIntake *intake);
static void prepare(CqrsIntake *intake);
static bool connect_broker(CqrsIntake *intake, const char *lease,
						   CqrsFailure *failure);
static void open_connection(CqrsIntake *intake);
static bool take_seat(CqrsIntake *intake);
static void close_connection(CqrsIntake *intake, bool politely);
static void connection_failed(CqrsIntake *intake, const CqrsFailure *failure);

CqrsIntake *
cqrs_intake_create(CqrsInbox *inbox)
{
	CqrsIntake *intake = MemoryContextAllocZero(TopMemoryContext,
												sizeof(CqrsIntake));

	intake->inbox = inbox;
	intake->session = cqrs_session_create(cqrs_guc_consumer_url, true);
	intake->log = cqrs_intake_log_create();
	intake->topology = cqrs_topology_create(intake->log);
	intake->feed = cqrs_feed_create(inbox, intake->session, intake->topology,
									intake->log);
	intake->exchange = MemoryContextStrdup(TopMemoryContext, cqrs_exchange);
	return intake;
}

void
cqrs_intake_configure(CqrsIntake *intake, const CqrsSeat *seat, List *bindings)
{
	bool		moved = intake->queue != NULL &&
	strcmp(seat->queue, intake->queue) != 0;

	if (intake->session->connection != NULL && (moved || seat->taking_over))
		close_connection(intake, true);
	if (moved)
		pfree(intake->queue);
	if (moved || intake->queue == NULL)
		intake->queue = MemoryContextStrdup(TopMemoryContext, seat->queue);
	if (seat->copied)
	{
		if (!intake->yields)
			cqrs_intake_log_copied(intake->log, intake->queue);
		intake->yields = true;
	}
	/* cqrs_consume() ends a stand-by, as does another epoch. */
	else if (moved || seat->taking_over || seat->epoch > intake->epoch)
	{
		intake->yields = false;
		cqrs_session_hurry(intake->session);
	}
	intake->epoch = seat->epoch;
	intake->taking_over = seat->taking_over;
	cqrs_topology_set(intake->topology, intake->queue, seat->quorum, bindings);
}

void
cqrs_intake_reload(CqrsIntake *intake)
{
	bool		moved = cqrs_session_reload(intake->session);

	if (strcmp(cqrs_exchange, intake->exchange) != 0)
	{
		pfree(intake->exchange);
		intake->exchange = MemoryContextStrdup(TopMemoryContext, cqrs_exchange);
		cqrs_topology_keep(intake->topology);
	}
	cqrs_intake_log_reload(intake->log);
	cqrs_topology_retry(intake->topology);
	/* While paused there is no connection; the broker may be another one. */
	if (moved || intake->session->connection == NULL)
		cqrs_topology_connected(intake->topology);
	if (moved)
		close_connection(intake, true);
}

void
cqrs_intake_set_wary(CqrsIntake *intake, bool wary)
{
	cqrs_feed_set_wary(intake->feed, wary);
}

void
cqrs_intake_turn(CqrsIntake *intake, CqrsIntakeGoal goal)
{
	CqrsSession *session = intake->session;
	const CqrsFailure *lost = cqrs_feed_failure(intake->feed);
	CqrsFailure failure;

	if (lost != NULL)
		connection_failed(intake, lost);
	if (!may_connect(intake))
		goal = CQRS_INTAKE_CLOSED;
	if (session->connection != NULL && goal != CQRS_INTAKE_CONSUMING)
		close_connection(intake, true);
	if (session->connection == NULL && cqrs_session_wait_ms(session) == 0)
	{
		if (goal == CQRS_INTAKE_CONSUMING)
			open_connection(intake);
		else if (goal == CQRS_INTAKE_PREPARED &&
				 cqrs_topology_is_due(intake->topology))
			prepare(intake);
	}
	if (session->connection == NULL)
		return;

	if (cqrs_topology_is_due(intake->topology) &&
		!cqrs_topology_apply(intake->topology, session->transport,
							 session->connection, true, &failure))
	{
		connection_failed(intake, &failure);
		return;
	}
	if (epoch_wait_ms(intake) == 0 && !take_seat(intake))
		return;
	if (!cqrs_feed_turn(intake->feed))
	{
		/* The broker delivers them again, one by one. */
		close_connection(intake, true);
		cqrs_session_hurry(session);
	}
}

void
cqrs_intake_receive(CqrsIntake *intake)
{
	const CqrsFailure *lost;

	if (intake->session->connection == NULL)
		return;
	cqrs_feed_receive(intake->feed);
	lost = cqrs_feed_failure(intake->feed);
	if (lost != NULL)
		connection_failed(intake, lost);
}

void
cqrs_intake_serve(CqrsIntake *intake)
{
	cqrs_feed_serve(intake->feed);
}

void
cqrs_intake_acknowledge(CqrsIntake *intake, uint64 tag)
{
	cqrs_session_recover(intake->session);
	if (intake->acked_at == 0)
		intake->acked_at = GetCurrentTimestamp();
	cqrs_feed_acknowledge(intake->feed, tag);
}

bool
cqrs_intake_is_direct(const CqrsIntake *intake, const char *routing_key)
{
	return cqrs_topology_is_direct(intake->topology, routing_key);
}

bool
cqrs_intake_is_lost(const CqrsIntake *intake)
{
	return cqrs_feed_failure(intake->feed) != NULL;
}

bool
cqrs_intake_gathers(const CqrsIntake *intake)
{
	return intake->session->connection != NULL &&
		cqrs_feed_gathers(intake->feed);
}

uint64
cqrs_intake_connection(const CqrsIntake *intake)
{
	return intake->connection;
}

bool
cqrs_intake_delete_queue(CqrsIntake *intake)
{
	CqrsSession *session = intake->session;
	CqrsFailure failure;

	if (session->connection == NULL)
		return false;
	if (session->transport->delete_queue(session->connection, intake->queue,
										 &failure))
	{
		close_connection(intake, false);
		return true;
	}
	connection_failed(intake, &failure);
	return false;
}

void
cqrs_intake_finish(CqrsIntake *intake)
{
	bool		lost = cqrs_feed_failure(intake->feed) != NULL;

	if (intake->session->connection == NULL)
		return;
	if (ShutdownRequestPending && !lost)
		cqrs_feed_finish(intake->feed);
	close_connection(intake, !ShutdownRequestPending && !lost);
}

bool
cqrs_intake_is_prepared(const CqrsIntake *intake)
{
	return intake->yields || cqrs_topology_is_made(intake->topology);
}

CqrsConsumerState
cqrs_intake_state(const CqrsIntake *intake)
{
	if (cqrs_guc_consumer_url() == NULL)
		return CQRS_CONSUMER_UNCONFIGURED;
	if (intake->yields || intake->session->leased > 0)
		return CQRS_CONSUMER_STANDING_BY;
	return intake->session->connection == NULL ? CQRS_CONSUMER_WAITING :
		CQRS_CONSUMER_CONSUMING;
}

pgsocket
cqrs_intake_socket(const CqrsIntake *intake, bool *write)
{
	const CqrsSession *session = intake->session;

	*write = false;
	return session->connection == NULL ? PGINVALID_SOCKET :
		session->transport->socket(session->connection, write);
}

long
cqrs_intake_wait_ms(const CqrsIntake *intake, CqrsIntakeGoal goal)
{
	const CqrsSession *session = intake->session;
	long		wait_ms = 0;

	if (!may_connect(intake))
		goal = CQRS_INTAKE_CLOSED;
	if (session->connection == NULL)
	{
		if (goal == CQRS_INTAKE_PREPARED)
			wait_ms = cqrs_topology_wait_ms(intake->topology);
		return goal == CQRS_INTAKE_CLOSED || wait_ms < 0 ? -1 :
			Max(wait_ms, cqrs_session_wait_ms(session));
	}
	if (goal != CQRS_INTAKE_CONSUMING)
		return 0;
	wait_ms = cqrs_sooner_ms(cqrs_feed_wait_ms(intake->feed),
							 cqrs_topology_wait_ms(intake->topology));
	return cqrs_sooner_ms(wait_ms, epoch_wait_ms(intake));
}

/* Whether there is a broker, and no other database has the queue. */
static bool
may_connect(const CqrsIntake *intake)
{
	return intake->queue != NULL && !intake->yields &&
		cqrs_guc_consumer_url() != NULL;
}

/* Milliseconds until the epoch is to be raised; -1 if it need not be. */
static long
epoch_wait_ms(const CqrsIntake *intake)
{
	return intake->acked_at == 0 ? -1 :
		cqrs_until_after_ms(intake->acked_at, CQRS_EPOCH_INTERVAL_MS);
}

/*
 * Make queue and bindings ready by a connection without lease, which is closed
 * again.
 */
static void
prepare(CqrsIntake *intake)
{
	CqrsSession *session = intake->session;
	CqrsFailure failure;

	if (!connect_broker(intake, NULL, &failure) ||
		!cqrs_topology_apply(intake->topology, session->transport,
							 session->connection, false, &failure))
	{
		connection_failed(intake, &failure);
		return;
	}
	cqrs_session_recover(session);
	cqrs_session_close(session, true);
}

/* "lease": NULL for none. */
static bool
connect_broker(CqrsIntake *intake, const char *lease, CqrsFailure *failure)
{
	CqrsConnectOptions options = {
		.name = "cqrs consumer",
		.lease = lease,
		.deliveries = cqrs_inbox_context(intake->inbox),
		.max_delivery = cqrs_transport_of(cqrs_guc_consumer_url())->max_body
	};
	bool		connected;

	cqrs_worker_set_state(CQRS_CONSUMER_CONNECTING);
	pgstat_report_activity(STATE_RUNNING, "connecting to the broker");
	connected = cqrs_session_connect(intake->session, &options, failure);
	cqrs_worker_set_broker(intake->session->address);
	pgstat_report_activity(STATE_IDLE, NULL);
	return connected;
}

/*
 * Connect with the lease, and begin to consume.  If that fails, there is no
 * connection, and the next attempt is scheduled.
 */
static void
open_connection(CqrsIntake *intake)
{
	CqrsSession *session = intake->session;
	char	   *lease = psprintf("cqrs.lease.consumer.%s", intake->queue);
	CqrsFailure failure;

	if (!connect_broker(intake, cqrs_topology_utf8(lease), &failure))
	{
		if (failure.blame != CQRS_BLAME_LEASE)
		{
			connection_failed(intake, &failure);
			return;
		}
		cqrs_worker_set_error(failure.reason);
		if (cqrs_session_refused(session) == LEASE_ATTEMPTS)
			cqrs_intake_log_standby(intake->log, intake->queue,
									failure.reason);
		return;
	}
	intake->connection++;
	cqrs_feed_open(intake->feed, intake->queue);
	cqrs_topology_connected(intake->topology);
	cqrs_worker_set_connected(true);
	if (take_seat(intake))
		cqrs_intake_log_connected(intake->log, session->url, intake->queue);
}

/*
 * Raise the epoch, if no other database has consumed meanwhile.  Returns
 * whether there still is a connection.
 */
static bool
take_seat(CqrsIntake *intake)
{
	CqrsFailure failure;

	switch (cqrs_epoch_raise(intake->session, intake->queue, &intake->epoch,
							 intake->taking_over, &failure))
	{
		case CQRS_EPOCH_RAISED:
			intake->taking_over = false;
			break;
		case CQRS_EPOCH_UNANSWERED:
			intake->taking_over = false;
			cqrs_intake_log_unmarked(intake->log, failure.reason);
			break;
		case CQRS_EPOCH_OVERTAKEN:
			intake->yields = true;
			cqrs_intake_log_overtaken(intake->log, intake->queue);
			close_connection(intake, true);
			return false;
		case CQRS_EPOCH_FAILED:
			connection_failed(intake, &failure);
			return false;
	}
	intake->acked_at = 0;
	return true;
}

/*
 * Close the connection and clear the inbox.  With "politely", the broker is
 * told before what is committed.
 */
static void
close_connection(CqrsIntake *intake, bool politely)
{
	CqrsSession *session = intake->session;

	if (politely)
		cqrs_feed_flush(intake->feed);
	cqrs_session_close(session, politely);
	cqrs_feed_reset(intake->feed);
	intake->connection++;
	cqrs_worker_set_connected(false);
}

/* Close the connection, if there is one, and schedule the next attempt. */
static void
connection_failed(CqrsIntake *intake, const CqrsFailure *failure)
{
	if (!ShutdownRequestPending)
		cqrs_intake_log_failure(intake->log, failure->reason);
	if (intake->session->connection != NULL)
		close_connection(intake, false);
	cqrs_session_put_off(intake->session, failure->blame, false);
}
