/*-------------------------------------------------------------------------
 *
 * link.c
 *	  The publisher's dealings with the broker.
 *
 * Keeps a connection while there is a URL, sends from the window, up to
 * cqrs.confirm_window unconfirmed messages, and takes what the broker answers.
 *
 * A failure of the transport is no error, and never a message's fault: the
 * connection is closed and everything unconfirmed is sent again after a delay
 * that doubles up to a limit.  This can send a message twice, with the same
 * message id, and cannot lose one.  The delay starts anew when all that was
 * under way at the last failure has been confirmed, and not before: otherwise
 * whatever ends each connection would be met again and again without a pause.
 *
 * Where the broker closes the channel because of a message or its exchange, it
 * does not say which of those under way is meant.  They are sent again one at
 * a time; the one that is alone when this happens again is the one.  A message
 * that is refused for what it is gets parked.  For a route that is missing or
 * not permitted, and for a queue that refuses more, its master is held.
 *
 * What is told of all that is in link_log.c.
 *
 * Belongs to the publisher alone; lives in TopMemoryContext.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "utils/memutils.h"

#include "base/guc.h"
#include "base/limits.h"
#include "base/timing.h"
#include "base/url.h"
#include "broker/transport.h"
#include "publish/link.h"
#include "publish/link_log.h"
#include "worker/worker.h"

/* Messages that are sent before confirms are looked at. */
#define SEND_TURN			200
/* While another publisher has the lease, it is asked for this often. */
#define LEASE_INTERVAL_MS	2000
/* So often it is asked for before that is worth telling. */
#define LEASE_ATTEMPTS		4

struct CqrsLink
{
	const CqrsWorker *worker;
	char	   *identity;
	CqrsWindow *window;
	CqrsHolds  *holds;
	CqrsLinkLog *log;

	const CqrsTransport *transport;
	CqrsConnection *connection; /* NULL: none */
	char	   *url;			/* of the connection */
	char	   *exchange;
	int			host;			/* which host of the URL is to be tried */
	bool		blocked;		/* by the broker */
	bool		renew;			/* to be opened anew once all is answered */
	int			leased;			/* how often in a row another one had the
								 * lease */
	TimestampTz leased_at;		/* the first of these times */
	int			failures;		/* in a row */
	uint64		failed_at;		/* they are over when so many are done */
	uint64		suspects_end;	/* until so many are done, one at a time */
	TimestampTz connect_at;		/* not before this */
	TimestampTz confirmed_at;	/* last sign of progress of the window */
};

static bool may_connect(const CqrsLink *link, bool paused);
static void open_connection(CqrsLink *link);
static List *vacant_leases(const CqrsLink *link);
static void close_connection(CqrsLink *link, bool politely);
static void lease_refused(CqrsLink *link, const char *reason);
static void connection_failed(CqrsLink *link, CqrsBlame blame,
							  const char *reason);
static bool single_out(CqrsLink *link, CqrsBlame blame, const char *reason);
static long confirm_wait_ms(const CqrsLink *link);
static bool may_send(const CqrsLink *link);
static void send_message(CqrsLink *link, CqrsOutgoing *message);
static void handle_event(CqrsLink *link, const CqrsEvent *event);
static void messages_confirmed(CqrsLink *link, const CqrsEvent *event);
static void messages_nacked(CqrsLink *link, const CqrsEvent *event);
static void message_returned(CqrsLink *link, const char *message_id);
static void hold_master(CqrsLink *link, const CqrsOutgoing *message,
						const char *reason);

CqrsLink   *
cqrs_link_create(const CqrsWorker *worker, CqrsWindow *window, CqrsHolds *holds)
{
	CqrsLink   *link = MemoryContextAllocZero(TopMemoryContext,
											  sizeof(CqrsLink));

	link->worker = worker;
	link->window = window;
	link->holds = holds;
	link->transport = &cqrs_transport_amqp;
	link->log = cqrs_link_log_create();
	return link;
}

void
cqrs_link_identify(CqrsLink *link, const char *identity)
{
	if (link->identity != NULL && strcmp(identity, link->identity) == 0)
		return;
	if (link->connection != NULL)
		close_connection(link, true);
	if (link->identity != NULL)
		pfree(link->identity);
	link->identity = MemoryContextStrdup(TopMemoryContext, identity);
	link->connect_at = 0;
}

void
cqrs_link_reload(CqrsLink *link)
{
	const char *url = cqrs_guc_url();

	link->connect_at = 0;
	link->failures = 0;
	cqrs_link_log_reload(link->log);
	cqrs_holds_retry(link->holds);
	if (link->connection != NULL &&
		(url == NULL || strcmp(url, link->url) != 0 ||
		 strcmp(cqrs_exchange, link->exchange) != 0))
		close_connection(link, true);
}

void
cqrs_link_turn(CqrsLink *link, bool paused)
{
	if (link->connection != NULL)
	{
		if (paused ||
			(link->worker->number != 0 &&
			 cqrs_lane_lease(link->worker) == CQRS_LEASE_LOST))
			close_connection(link, true);
	}
	else if (may_connect(link, paused) && cqrs_until_ms(link->connect_at) == 0)
		open_connection(link);
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
		if (!may_send(link) ||
			!link->transport->can_publish(link->connection))
			break;
		send_message(link, cqrs_window_next_unsent(link->window));
		cqrs_window_sent(link->window);
		cqrs_worker_count(CQRS_COUNTER_PUBLISHED, 1);
	}
}

void
cqrs_link_receive(CqrsLink *link)
{
	while (link->connection != NULL)
	{
		CqrsEvent	event;
		CqrsFailure failure;

		link->transport->poll(link->connection, &event, &failure);
		if (event.kind == CQRS_EVENT_NONE)
			break;
		if (event.kind == CQRS_EVENT_FAILED)
			connection_failed(link, failure.blame, failure.text);
		else
			handle_event(link, &event);
	}
	if (link->connection != NULL && confirm_wait_ms(link) == 0)
		connection_failed(link, CQRS_BLAME_TRANSPORT,
						  "no confirm within \"cqrs.confirm_timeout\"");
	if (link->connection != NULL && link->renew &&
		cqrs_window_unconfirmed(link->window) == 0)
	{
		close_connection(link, true);
		link->connect_at = 0;
	}
	cqrs_worker_set_counter(CQRS_COUNTER_HELD, list_length(link->holds->list));
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
cqrs_link_socket(const CqrsLink *link, bool *write)
{
	*write = false;
	return link->connection != NULL ?
		link->transport->socket(link->connection, write) : PGINVALID_SOCKET;
}

long
cqrs_link_wait_ms(const CqrsLink *link, bool paused)
{
	bool		write;

	if (link->connection == NULL)
		return may_connect(link, paused) ? cqrs_until_ms(link->connect_at) : -1;

	(void) link->transport->socket(link->connection, &write);
	if (!link->blocked && !write && may_send(link))
		return 0;
	return cqrs_sooner_ms(link->transport->wait_ms(link->connection),
						  confirm_wait_ms(link));
}

CqrsPublisherState
cqrs_link_state(const CqrsLink *link)
{
	if (cqrs_guc_url() == NULL)
		return CQRS_STATE_UNCONFIGURED;
	if (link->connection == NULL)
		return link->leased > 0 ||
			cqrs_lane_lease(link->worker) == CQRS_LEASE_LOST ?
			CQRS_STATE_STANDING_BY : CQRS_STATE_WAITING;
	return link->blocked ? CQRS_STATE_BLOCKED : CQRS_STATE_PUBLISHING;
}

/* Whether there is a reason to be connected; lanes above 0 follow lane 0. */
static bool
may_connect(const CqrsLink *link, bool paused)
{
	return !paused && cqrs_guc_url() != NULL &&
		(link->worker->number == 0 ||
		 cqrs_lane_lease(link->worker) == CQRS_LEASE_HELD);
}

static void
open_connection(CqrsLink *link)
{
	CqrsConnectOptions options;
	CqrsFailure failure;

	options.url = cqrs_guc_url();
	options.host = link->host % cqrs_url_hosts(options.url);
	options.exchange = cqrs_exchange;
	options.lease = cqrs_lane_lease_name(link->identity, link->worker->number);
	options.vacant = vacant_leases(link);
	options.heartbeat_s = cqrs_heartbeat_s;
	options.connect_timeout_ms = cqrs_connect_timeout_ms;
	options.tls.ca_file = cqrs_ssl_ca_file;
	options.tls.cert_file = cqrs_ssl_cert_file;
	options.tls.key_file = cqrs_ssl_key_file;
	options.tls.verify = cqrs_ssl_verify;

	cqrs_worker_set_state(CQRS_STATE_CONNECTING);
	pgstat_report_activity(STATE_RUNNING, "connecting to the broker");
	link->connection = link->transport->connect(&options, &failure);
	pgstat_report_activity(STATE_IDLE, NULL);
	if (link->connection == NULL)
	{
		if (failure.blame == CQRS_BLAME_LEASE)
			lease_refused(link, failure.text);
		else
			connection_failed(link, CQRS_BLAME_TRANSPORT, failure.text);
		return;
	}
	/* It may have taken its time. */
	if (!may_connect(link, false))
	{
		link->transport->close(link->connection, true);
		link->connection = NULL;
		return;
	}
	link->leased = 0;

	link->url = MemoryContextStrdup(TopMemoryContext, options.url);
	link->exchange = MemoryContextStrdup(TopMemoryContext, options.exchange);
	link->blocked = false;
	link->renew = false;
	link->confirmed_at = GetCurrentTimestamp();
	cqrs_window_rewind(link->window);

	cqrs_worker_set_connected(true);
	cqrs_lane_set_lease(link->worker, CQRS_LEASE_HELD);
	cqrs_link_log_connected(link->log, link->url, link->exchange);
}

/*
 * The leases that nobody may have when this lane connects: for lane 0, those
 * of all lanes that are not connected here.  Who has one is a copy of this
 * database, or a lane of ours whose end the broker has not noticed yet; what
 * that has sent has to arrive first, since its messages may now be another
 * lane's.
 */
static List *
vacant_leases(const CqrsLink *link)
{
	List	   *leases = NIL;

	if (link->worker->number != 0)
		return NIL;
	for (int i = 1; i < CQRS_MAX_LANES; i++)
	{
		if (!cqrs_worker_is_connected(link->worker, i))
			leases = lappend(leases, cqrs_lane_lease_name(link->identity, i));
	}
	return leases;
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
	cqrs_worker_set_connected(false);
	cqrs_lane_set_lease(link->worker, CQRS_LEASE_NONE);
}

/*
 * A copy of this database publishes, or the broker has not noticed yet that
 * our last connection is gone.  The latter takes it a moment, or two intervals
 * of the heartbeat when that one was cut off; so ask again soon, and do not
 * tell at once.
 */
static void
lease_refused(CqrsLink *link, const char *reason)
{
	if (link->leased++ == 0)
		link->leased_at = GetCurrentTimestamp();

	/*
	 * Longer than the broker takes to miss one lost connection.  Lanes that
	 * are cut off one after another can take longer still; those that are not
	 * then close as well, which repeats messages and loses none.
	 */
	else if (cqrs_until_after_ms(link->leased_at,
								 2 * (cqrs_heartbeat_s + 1) * 1000L) == 0)
		cqrs_lane_set_lease(link->worker, CQRS_LEASE_LOST);
	link->connect_at =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									Min(cqrs_backoff_ms(link->leased - 1),
										LEASE_INTERVAL_MS));
	if (link->leased == LEASE_ATTEMPTS)
		cqrs_link_log_standby(link->log, reason);
}

/*
 * Give up the connection, if there is one, and put the next attempt off; it
 * is made with the next host, and the delay grows with each round of hosts.
 */
static void
connection_failed(CqrsLink *link, CqrsBlame blame, const char *reason)
{
	uint64		sent = cqrs_window_sent_so_far(link->window);
	const CqrsOutgoing *suspect;
	bool		gone;
	bool		resolved;
	int			nhosts;

	if (ShutdownRequestPending)
	{
		cqrs_link_close(link);
		return;
	}
	link->leased = 0;
	cqrs_lane_set_lease(link->worker, CQRS_LEASE_NONE);
	suspect = cqrs_window_by_tag(link->window,
								 cqrs_window_first_tag(link->window));
	/* Its master is held: the rewind takes it out of the window. */
	gone = suspect != NULL && suspect->withdrawn;
	resolved = single_out(link, blame, reason);
	cqrs_link_log_failure(link->log, reason, link->connection != NULL);
	cqrs_link_close(link);
	/* After the rewind: it has to be the first one that is not sent. */
	if (resolved && blame == CQRS_BLAME_MESSAGE && !gone)
		cqrs_window_refuse(link->window, reason);

	nhosts = cqrs_guc_url() != NULL ? cqrs_url_hosts(cqrs_guc_url()) : 1;
	if (resolved)
		link->failures = 0;
	else
		link->failed_at = Max(link->failed_at, sent);
	link->connect_at =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									cqrs_backoff_ms(link->failures / nhosts));
	if (!resolved)
		link->failures++;
	if (blame == CQRS_BLAME_TRANSPORT)
		link->host = (link->host + 1) % nhosts;
}

/*
 * When the broker has closed the channel because of something that was sent:
 * if there was only one message that it can have meant, deal with it and
 * return true, else see to it that there is only one next time.
 */
static bool
single_out(CqrsLink *link, CqrsBlame blame, const char *reason)
{
	int			nsuspects = cqrs_window_unconfirmed(link->window);

	if (blame == CQRS_BLAME_TRANSPORT || nsuspects == 0)
		return false;
	if (nsuspects > 1)
	{
		link->suspects_end = cqrs_window_sent_so_far(link->window);
		return false;
	}
	if (blame == CQRS_BLAME_ROUTE)
		hold_master(link,
					cqrs_window_by_tag(link->window,
									   cqrs_window_first_tag(link->window)),
					reason);
	return true;
}

/* How long a confirm may still take; 0 when it is overdue, -1 for ever. */
static long
confirm_wait_ms(const CqrsLink *link)
{
	if (cqrs_confirm_timeout_ms == 0 || link->blocked ||
		cqrs_window_unconfirmed(link->window) == 0)
		return -1;
	return cqrs_until_after_ms(link->confirmed_at, cqrs_confirm_timeout_ms);
}

/* Whether there is a message that may be sent now. */
static bool
may_send(const CqrsLink *link)
{
	int			window = cqrs_window_done(link->window) < link->suspects_end ?
	1 : cqrs_confirm_window;

	return !link->renew && cqrs_window_unsent(link->window) > 0 &&
		cqrs_window_unconfirmed(link->window) < window;
}

static void
send_message(CqrsLink *link, CqrsOutgoing *message)
{
	CqrsEnvelope envelope;
	char	   *message_id = psprintf("%s-" INT64_FORMAT, link->identity,
									  message->id);

	cqrs_window_stamp(message);
	envelope.exchange = message->exchange != NULL ? message->exchange :
		link->exchange;
	envelope.routing_key = message->routing_key;
	envelope.message_id = message_id;
	envelope.correlation_id = message->correlation_id;
	envelope.timestamp = message->committed_at;
	envelope.body = message->body;
	envelope.body_length = message->body_length;
	link->transport->publish(link->connection, &envelope);
}

static void
handle_event(CqrsLink *link, const CqrsEvent *event)
{
	switch (event->kind)
	{
		case CQRS_EVENT_ACK:
			messages_confirmed(link, event);
			break;

		case CQRS_EVENT_NACK:
			messages_nacked(link, event);
			break;

		case CQRS_EVENT_RETURNED:
			message_returned(link, event->text);
			break;

		case CQRS_EVENT_BLOCKED:
			link->blocked = true;
			cqrs_link_log_blocked(link->log, event->text);
			break;

		case CQRS_EVENT_UNBLOCKED:
			link->blocked = false;
			link->confirmed_at = GetCurrentTimestamp();
			cqrs_link_log_unblocked(link->log);
			break;

		case CQRS_EVENT_NONE:
		case CQRS_EVENT_FAILED:
			break;
	}
}

static void
messages_confirmed(CqrsLink *link, const CqrsEvent *event)
{
	cqrs_worker_count(CQRS_COUNTER_CONFIRMED, cqrs_window_confirm(link->window, event->tag,
																  event->multiple));
	link->confirmed_at = GetCurrentTimestamp();
	/* Messages that were taken out of the window do not get done. */
	if (cqrs_window_bytes(link->window) == 0)
		link->failed_at = link->suspects_end = 0;
	if (cqrs_window_done(link->window) >= link->failed_at)
		link->failures = 0;
}

/*
 * A queue refuses more, or has failed.  That is not the messages' fault; they
 * are sent again in their order, later, while other masters flow on.
 *
 * When a probe is refused, too, it may be the channel: RabbitMQ 3.10 goes on
 * looking for the leader of a quorum queue where it was when the channel first
 * sent there, on a node that is gone.  So a new channel is opened, after all
 * that is under way has been answered, lest it be sent twice.
 */
static void
messages_nacked(CqrsLink *link, const CqrsEvent *event)
{
	uint64		first = cqrs_window_first_tag(link->window);
	uint64		last = event->tag != 0 ? event->tag :
	first + cqrs_window_unconfirmed(link->window) - 1;

	if (!event->multiple && event->tag != 0)
		first = last;
	for (uint64 tag = first; tag <= last; tag++)
	{
		CqrsOutgoing *message = cqrs_window_by_tag(link->window, tag);

		cqrs_worker_count(CQRS_COUNTER_NACKED, 1);
		if (message != NULL && !message->withdrawn)
		{
			int			nholds = list_length(link->holds->list);

			hold_master(link, message,
						"broker refused a message with basic.nack");
			if (list_length(link->holds->list) == nholds)
				link->renew = true;
		}
	}
	(void) cqrs_window_confirm(link->window, event->tag, event->multiple);
	link->confirmed_at = GetCurrentTimestamp();
}

/* No queue is bound for a message; its confirm follows. */
static void
message_returned(CqrsLink *link, const char *message_id)
{
	const char *dash = strrchr(message_id, '-');
	CqrsOutgoing *message = NULL;

	cqrs_worker_count(CQRS_COUNTER_RETURNED, 1);
	if (dash != NULL)
		message = cqrs_window_find(link->window, strtoll(dash + 1, NULL, 10));
	if (message == NULL || message->withdrawn)
		return;
	if (cqrs_unroutable == CQRS_UNROUTABLE_KEEP)
		hold_master(link, message, "no queue is bound for a message");
	else
		cqrs_link_log_returned(link->log, message, link->exchange);
}

static void
hold_master(CqrsLink *link, const CqrsOutgoing *message, const char *reason)
{
	char	   *cqrs_id = pstrdup(message->cqrs_id);
	int64		id = message->id;

	/* From here on the message may be gone. */
	if (cqrs_holds_add(link->holds, cqrs_id, id))
		cqrs_worker_set_error(psprintf("master \"%s\": %s", cqrs_id, reason));
	cqrs_window_withdraw(link->window, cqrs_id, id);
	if (cqrs_holds_tell(link->holds, cqrs_id))
		cqrs_link_log_held(cqrs_id, reason);
}
