/*-------------------------------------------------------------------------
 *
 * link.c
 *	  The publisher's dealings with the broker.
 *
 * Keeps a connection while there is a URL, sends from the window, up to
 * cqrs.confirm_window unconfirmed messages, and takes what the broker answers.
 *
 * A failure of the transport is no error: the connection is closed and
 * everything unconfirmed is sent again after a delay that doubles up to a
 * limit.  This can send a message twice, with the same message id, and cannot
 * lose one.
 *
 * Belongs to the publisher alone; lives in TopMemoryContext.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "access/xlog.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "utils/memutils.h"

#include "compat.h"
#include "guc.h"
#include "link.h"
#include "outbox.h"
#include "timing.h"
#include "transport.h"
#include "url.h"

/* Messages that are sent before confirms are looked at. */
#define SEND_TURN			200
/* Returned messages are logged this often. */
#define RETURNED_LOG_INTERVAL_MS 60000

struct CqrsLink
{
	CqrsSlot   *slot;
	Oid			extension;
	CqrsWindow *window;

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
};

static void open_connection(CqrsLink *link);
static void close_connection(CqrsLink *link, bool politely);
static void connection_failed(CqrsLink *link, const char *reason);
static bool send_message(CqrsLink *link, CqrsOutgoing *message);
static void stamp_expires(CqrsOutgoing *message);
static void handle_event(CqrsLink *link, const CqrsEvent *event);
static void message_returned(CqrsLink *link, const char *routing_key);
static void check_confirm_timeout(CqrsLink *link);

CqrsLink   *
cqrs_link_create(CqrsSlot *slot, Oid extension, CqrsWindow *window)
{
	CqrsLink   *link = MemoryContextAllocZero(TopMemoryContext,
											  sizeof(CqrsLink));

	link->slot = slot;
	link->extension = extension;
	link->window = window;
	link->transport = &cqrs_transport_amqp;
	return link;
}

void
cqrs_link_reload(CqrsLink *link)
{
	const char *url = cqrs_guc_url();

	link->connect_at = 0;
	link->failures = 0;
	link->last_failure[0] = '\0';
	if (link->connection != NULL &&
		(url == NULL || strcmp(url, link->url) != 0 ||
		 strcmp(cqrs_exchange, link->exchange) != 0))
		close_connection(link, true);
}

bool
cqrs_link_turn(CqrsLink *link, bool paused)
{
	if (link->connection != NULL)
	{
		if (paused)
			close_connection(link, true);
		return false;
	}
	if (paused || cqrs_guc_url() == NULL ||
		cqrs_until_ms(link->connect_at) > 0)
		return false;
	open_connection(link);
	return true;
}

void
cqrs_link_send(CqrsLink *link)
{
	if (link->connection == NULL || link->blocked)
		return;

	if (cqrs_window_unconfirmed(link->window) == 0)
		link->confirmed_at = GetCurrentTimestamp();
	for (int i = 0; i < SEND_TURN; i++)
	{
		CqrsOutgoing *message = cqrs_window_next_unsent(link->window);

		if (message == NULL ||
			cqrs_window_unconfirmed(link->window) >= cqrs_confirm_window ||
			!send_message(link, message))
			break;
		cqrs_window_sent(link->window);
		pg_atomic_fetch_add_u64(&link->slot->published, 1);
	}
}

void
cqrs_link_receive(CqrsLink *link)
{
	while (link->connection != NULL)
	{
		CqrsEvent	event;
		char		error[CQRS_TRANSPORT_ERROR_BYTES];

		link->transport->poll(link->connection, &event, error);
		if (event.kind == CQRS_EVENT_NONE)
			break;
		if (event.kind == CQRS_EVENT_FAILED)
			connection_failed(link, error);
		else
			handle_event(link, &event);
	}
	if (link->connection != NULL)
		check_confirm_timeout(link);
}

void
cqrs_link_close(CqrsLink *link)
{
	if (link->connection != NULL)
		close_connection(link, false);
}

bool
cqrs_link_is_open(const CqrsLink *link)
{
	return link->connection != NULL;
}

pgsocket
cqrs_link_socket(const CqrsLink *link)
{
	return link->connection != NULL ?
		link->transport->socket(link->connection) : PGINVALID_SOCKET;
}

long
cqrs_link_wait_ms(const CqrsLink *link, bool paused)
{
	bool		confirms_awaited = cqrs_window_unconfirmed(link->window) > 0;
	long		wait_ms = -1;

	if (link->connection == NULL)
		return paused || cqrs_guc_url() == NULL ? -1 :
			cqrs_until_ms(link->connect_at);

	if (!link->blocked && cqrs_window_unsent(link->window) > 0 &&
		cqrs_window_unconfirmed(link->window) < cqrs_confirm_window)
		return 0;
	if (cqrs_heartbeat_s > 0)
		wait_ms = cqrs_heartbeat_s * 1000L / 2;
	if (confirms_awaited && cqrs_confirm_timeout_ms > 0 && !link->blocked)
		wait_ms = cqrs_sooner_ms(wait_ms,
								 cqrs_until_after_ms(link->confirmed_at,
													 cqrs_confirm_timeout_ms));
	return wait_ms;
}

CqrsPublisherState
cqrs_link_state(const CqrsLink *link)
{
	if (cqrs_guc_url() == NULL)
		return CQRS_UNCONFIGURED;
	if (link->connection == NULL)
		return CQRS_WAITING;
	return link->blocked ? CQRS_BLOCKED : CQRS_PUBLISHING;
}

void
cqrs_link_interrupt(void)
{
	cqrs_transport_amqp.interrupt();
}

static void
open_connection(CqrsLink *link)
{
	CqrsConnectOptions options;
	char		error[CQRS_TRANSPORT_ERROR_BYTES];

	options.url = cqrs_guc_url();
	options.exchange = cqrs_exchange;
	options.heartbeat_s = cqrs_heartbeat_s;
	options.connect_timeout_ms = cqrs_connect_timeout_ms;

	pg_atomic_write_u32(&link->slot->state, CQRS_CONNECTING);
	pgstat_report_activity(STATE_RUNNING, "connecting to the broker");
	link->connection = link->transport->connect(&options, error);
	pgstat_report_activity(STATE_IDLE, NULL);
	if (link->connection == NULL)
	{
		connection_failed(link, error);
		return;
	}

	link->url = MemoryContextStrdup(TopMemoryContext, options.url);
	link->exchange = MemoryContextStrdup(TopMemoryContext,
										 options.exchange);
	link->blocked = false;
	link->confirmed_at = GetCurrentTimestamp();
	cqrs_window_rewind(link->window);

	pg_atomic_fetch_add_u64(&link->slot->connects, 1);
	LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
	link->slot->connected_at = link->confirmed_at;
	LWLockRelease(cqrs_shared->lock);
	ereport(LOG,
			(errmsg("cqrs publisher connected to \"%s\", exchange \"%s\"",
					cqrs_url_mask(link->url), link->exchange)));
}

static void
close_connection(CqrsLink *link, bool politely)
{
	link->transport->close(link->connection, politely);
	link->connection = NULL;
	explicit_bzero(link->url, strlen(link->url));
	pfree(link->url);
	pfree(link->exchange);
	cqrs_window_rewind(link->window);
	LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
	link->slot->connected_at = 0;
	LWLockRelease(cqrs_shared->lock);
}

/*
 * Give up the connection, if there is one, and put the next attempt off: by a
 * delay that doubles with each failure, a random quarter of it less.  The
 * same failure is logged once.
 */
static void
connection_failed(CqrsLink *link, const char *reason)
{
	double		delay_ms = cqrs_reconnect_delay_ms;

	if (link->connection != NULL)
		close_connection(link, false);
	if (ShutdownRequestPending)
		return;

	delay_ms *= (double) (UINT64CONST(1) << Min(link->failures, 30));
	delay_ms = Min(delay_ms, cqrs_reconnect_delay_max_ms);
	delay_ms *= 1.0 - 0.25 * cqrs_random();
	link->failures++;
	link->connect_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   (int64) delay_ms);

	cqrs_shared_set_error(link->slot, reason);
	if (strcmp(reason, link->last_failure) != 0)
	{
		strlcpy(link->last_failure, reason,
				sizeof(link->last_failure));
		ereport(LOG,
				(errmsg("cqrs publisher has no connection to the broker: %s",
						reason),
				 errdetail("Messages wait in the outbox; attempts to connect go on.")));
	}
}

/* Returns false when the connection has failed, and is gone. */
static bool
send_message(CqrsLink *link, CqrsOutgoing *message)
{
	CqrsEnvelope envelope;
	char		message_id[128];
	char		error[CQRS_TRANSPORT_ERROR_BYTES];

	if (message->expires_at >= 0)
		stamp_expires(message);
	snprintf(message_id, sizeof(message_id),
			 UINT64_FORMAT "-%u-%u-" INT64_FORMAT, GetSystemIdentifier(),
			 MyDatabaseId, link->extension, message->id);
	envelope.exchange = message->exchange != NULL ? message->exchange :
		link->exchange;
	envelope.routing_key = message->routing_key;
	envelope.message_id = message_id;
	envelope.correlation_id = message->correlation_id;
	envelope.timestamp = message->committed_at;
	envelope.body = message->body;
	envelope.body_length = message->body_length;
	if (link->transport->publish(link->connection, &envelope, error))
		return true;
	connection_failed(link, error);
	return false;
}

/* Write "expires" into a message's body; made once for messages in a row. */
static void
stamp_expires(CqrsOutgoing *message)
{
	static char expires[CQRS_EXPIRES_LEN + 1];
	static TimestampTz second = -1;
	static int	ttl_s = -1;
	TimestampTz now = GetCurrentTimestamp() / USECS_PER_SEC * USECS_PER_SEC;

	if (now != second || message->ttl_s != ttl_s)
	{
		second = now;
		ttl_s = message->ttl_s;
		cqrs_message_expires(expires,
							 TimestampTzPlusMilliseconds(now,
														 ttl_s * INT64CONST(1000)));
	}
	memcpy(message->body + message->expires_at, expires, CQRS_EXPIRES_LEN);
}

static void
handle_event(CqrsLink *link, const CqrsEvent *event)
{
	switch (event->kind)
	{
		case CQRS_EVENT_ACK:
			pg_atomic_fetch_add_u64(&link->slot->confirmed,
									cqrs_window_confirm(link->window,
														event->tag,
														event->multiple));
			link->confirmed_at = GetCurrentTimestamp();
			link->failures = 0;
			link->last_failure[0] = '\0';
			break;

		case CQRS_EVENT_NACK:
			/* Sent again in its place, so that the row's order holds. */
			pg_atomic_fetch_add_u64(&link->slot->nacked, 1);
			connection_failed(link, "broker refused a message with basic.nack");
			break;

		case CQRS_EVENT_RETURNED:
			message_returned(link, event->text);
			break;

		case CQRS_EVENT_BLOCKED:
			link->blocked = true;
			ereport(LOG,
					(errmsg("cqrs publisher is blocked by the broker: %s",
							event->text)));
			break;

		case CQRS_EVENT_UNBLOCKED:
			link->blocked = false;
			link->confirmed_at = GetCurrentTimestamp();
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
message_returned(CqrsLink *link, const char *routing_key)
{
	pg_atomic_fetch_add_u64(&link->slot->returned, 1);
	if (cqrs_until_after_ms(link->returned_logged_at,
							RETURNED_LOG_INTERVAL_MS) > 0)
		return;
	link->returned_logged_at = GetCurrentTimestamp();
	ereport(LOG,
			(errmsg("no queue is bound for messages with routing key \"%s\"",
					routing_key),
			 errdetail("The broker has dropped them; cqrs.stats counts them as returned."),
			 errhint("Start a replica that binds its queue to exchange \"%s\".",
					 link->exchange)));
}

static void
check_confirm_timeout(CqrsLink *link)
{
	if (cqrs_confirm_timeout_ms == 0 || link->blocked ||
		cqrs_window_unconfirmed(link->window) == 0 ||
		cqrs_until_after_ms(link->confirmed_at,
							cqrs_confirm_timeout_ms) > 0)
		return;
	connection_failed(link, "no confirm within \"cqrs.confirm_timeout\"");
}
