/*-------------------------------------------------------------------------
 *
 * amqp.c
 *	  The transport to a broker by AMQP 0-9-1.
 *
 * A connection has one channel for messages, on which it publishes in confirm
 * mode (amqp_publish.c) or consumes (amqp_consume.c).  It has a second one for
 * what the broker may refuse by closing the channel: probes (amqp_probe.c),
 * and the requests that are waited for (amqp_side.c, amqp_mark.c), and a third
 * one for the lease, where the lease is no exclusive queue (amqp_token.c).
 * Nothing else waits.  Bytes that the socket does not take stay in the output
 * (amqp_frames.c), and meanwhile the broker's frames are read,
 * connection.blocked and heartbeats among them.
 *
 * A peer that has sent nothing for two heartbeat intervals is considered dead.
 * TCP_USER_TIMEOUT is not set: it would also end connections that the broker
 * does not read because of an alarm.
 *
 * The broker is not trusted.  A frame ends the connection, with a reason, if
 * it is malformed (amqp_decode.c), is on the wrong channel for its kind,
 * answers no request of ours, confirms a message that has not been sent, or
 * delivers one that was not asked for.
 * Frames that are allowed without limit, such as heartbeats, are handled a
 * bounded number at a time, and in the handshake within its deadline.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/timing.h"
#include "broker/amqp.h"
#include "broker/amqp_decode.h"

/* RabbitMQ accepts no larger message, whatever its settings. */
#define MAX_BODY_BYTES		(512 * 1024 * 1024)
/* The longest wait for the broker's answer to connection.close. */
#define CLOSE_TIMEOUT_MS	500
/* The most frames without an event that one poll() handles. */
#define POLL_FRAMES			16
/* The most events, besides deliveries, that arrive while others are awaited. */
#define KEPT_EVENTS			10000

static CqrsConnection *amqp_connect_broker(const CqrsConnectOptions *options,
										   CqrsFailure *failure);
static void amqp_poll_event(CqrsConnection *connection, CqrsEvent *event,
							CqrsFailure *failure);
static pgsocket amqp_socket(CqrsConnection *connection, bool *write);
static long amqp_wait_ms(CqrsConnection *connection);
static void amqp_close(CqrsConnection *connection, bool politely);
static bool take_kept(CqrsConnection *connection, CqrsEvent *event,
					  CqrsFailure *failure);
static CqrsConnection *open_connection(const CqrsConnectOptions *options,
									   CqrsFailure *failure);
static void send_heartbeat(CqrsConnection *connection);
static bool hears_broker(CqrsConnection *connection, CqrsFailure *failure);
static CqrsBlame blame_of_channel(const amqp_channel_close_t *close);
static void handle_connection(CqrsConnection *connection,
							  const amqp_frame_t *frame, const char *action,
							  CqrsEvent *event, CqrsFailure *failure);

const CqrsTransport cqrs_transport_amqp = {
	.scheme = "amqp",
	.tls_scheme = "amqps",
	/* As in the AMQP URI specification and in RabbitMQ's clients. */
	.defaults = {
		.user = "guest",.host = "localhost",.port = 5672,.path = "/"
	},
	.tls_port = 5671,
	.max_body = MAX_BODY_BYTES,
	.connect = amqp_connect_broker,
	.can_publish = cqrs_amqp_can_publish,
	.publish = cqrs_amqp_publish,
	.can_probe = cqrs_amqp_can_probe,
	.declare = cqrs_amqp_declare,
	.probe = cqrs_amqp_probe,
	.prepare_queue = cqrs_amqp_prepare_queue,
	.unbind = cqrs_amqp_unbind,
	.delete_queue = cqrs_amqp_delete_queue,
	.subscribe = cqrs_amqp_subscribe,
	.unsubscribe = cqrs_amqp_unsubscribe,
	.acknowledge = cqrs_amqp_acknowledge,
	.read_mark = cqrs_amqp_read_mark,
	.write_mark = cqrs_amqp_write_mark,
	.poll = amqp_poll_event,
	.socket = amqp_socket,
	.wait_ms = amqp_wait_ms,
	.close = amqp_close
};

static CqrsConnection *
amqp_connect_broker(const CqrsConnectOptions *options, CqrsFailure *failure)
{
	CqrsConnection *connection = open_connection(options, failure);

	if (connection != NULL &&
		(!cqrs_amqp_log_in(connection, options, failure) ||
		 !cqrs_amqp_set_up(connection, options, failure)))
	{
		amqp_close(connection, false);
		connection = NULL;
	}
	return connection;
}

static void
amqp_poll_event(CqrsConnection *connection, CqrsEvent *event,
				CqrsFailure *failure)
{
	int			result;

	if (take_kept(connection, event, failure))
		return;
	/* Not only its kind: the caller's event may be that of a probe. */
	memset(event, 0, sizeof(*event));
	if (connection->consumer != NULL)
		cqrs_amqp_put_acknowledgement(connection);
	if (connection->token != NULL)
		cqrs_amqp_keep_token(connection, event, failure);
	if (event->kind != CQRS_EVENT_NONE)
		return;
	send_heartbeat(connection);
	result = cqrs_amqp_frames_flush(connection->frames) ? 1 : -1;
	for (int i = 0; i < POLL_FRAMES && result > 0 &&
		 event->kind == CQRS_EVENT_NONE; i++)
	{
		amqp_frame_t frame;

		result = cqrs_amqp_frames_read(connection->frames, &frame);
		if (result > 0)
			cqrs_amqp_handle_frame(connection, &frame,
								   connection->consumer != NULL ? "could not consume" : "could not publish",
								   event, failure);
	}
	connection->more = result > 0;
	if (event->kind != CQRS_EVENT_NONE)
		return;
	if (result < 0)
		cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT, "connection lost: %s",
						 cqrs_amqp_frames_error(connection->frames));
	if (result < 0 || (result == 0 && !hears_broker(connection, failure)))
		event->kind = CQRS_EVENT_FAILED;
}

void
cqrs_amqp_keep(CqrsConnection *connection, CqrsEvent *event,
			   const char *action, CqrsFailure *failure)
{
	MemoryContext old = MemoryContextSwitchTo(connection->context);
	CqrsEvent  *kept = palloc(sizeof(CqrsEvent));

	/* The window bounds deliveries. */
	if (event->kind != CQRS_EVENT_DELIVERY &&
		event->kind != CQRS_EVENT_FAILED &&
		++connection->kept_others > KEPT_EVENTS)
		cqrs_amqp_violated(event, failure, action, "too much that was not asked for");
	*kept = *event;
	connection->kept = lappend(connection->kept, kept);
	if (event->kind == CQRS_EVENT_FAILED)
		connection->lost = *failure;
	MemoryContextSwitchTo(old);
}

/* The first event that was kept; returns false if there is none. */
static bool
take_kept(CqrsConnection *connection, CqrsEvent *event, CqrsFailure *failure)
{
	if (connection->kept == NIL)
		return false;
	*event = *(CqrsEvent *) linitial(connection->kept);
	if (event->kind == CQRS_EVENT_FAILED)
		*failure = connection->lost;
	pfree(linitial(connection->kept));
	connection->kept = list_delete_first(connection->kept);
	if (connection->kept == NIL)
		connection->kept_others = 0;
	return true;
}

static pgsocket
amqp_socket(CqrsConnection *connection, bool *write)
{
	*write = cqrs_amqp_frames_pending(connection->frames);
	return cqrs_socket_fd(cqrs_amqp_frames_socket(connection->frames));
}

static long
amqp_wait_ms(CqrsConnection *connection)
{
	const CqrsFrames *frames = connection->frames;
	int64		interval_ms = connection->heartbeat_s * INT64CONST(1000);
	long		wait_ms;

	if (connection->more || connection->kept != NIL)
		return 0;
	if (interval_ms == 0)
		return cqrs_amqp_token_wait_ms(connection);
	wait_ms = cqrs_until_after_ms(cqrs_amqp_frames_received_at(frames),
								  2 * interval_ms);
	/* While output is pending, no heartbeat is sent. */
	if (!cqrs_amqp_frames_pending(frames))
		wait_ms = Min(wait_ms,
					  cqrs_until_after_ms(cqrs_amqp_frames_sent_at(frames),
										  interval_ms / 2));
	return cqrs_sooner_ms(wait_ms, cqrs_amqp_token_wait_ms(connection));
}

static void
amqp_close(CqrsConnection *connection, bool politely)
{
	if (politely && cqrs_amqp_frames_has_room(connection->frames))
	{
		amqp_connection_close_t close = {0};
		amqp_frame_t frame;
		CqrsFailure ignored;

		close.reply_code = AMQP_REPLY_SUCCESS;
		close.reply_text = amqp_cstring_bytes("goodbye");
		cqrs_amqp_frames_put_method(connection->frames, 0,
									AMQP_CONNECTION_CLOSE_METHOD, &close);
		connection->deadline = cqrs_socket_deadline(CLOSE_TIMEOUT_MS);
		(void) cqrs_amqp_await(connection, 0, AMQP_CONNECTION_CLOSE_OK_METHOD,
							   "close", &frame, &ignored);
	}
	if (connection->consumer != NULL)
		cqrs_amqp_free_deliveries(connection);
	cqrs_amqp_frames_destroy(connection->frames);
	MemoryContextDelete(connection->context);
}

/* A connection on which nothing has been sent; NULL on failure. */
static CqrsConnection *
open_connection(const CqrsConnectOptions *options, CqrsFailure *failure)
{
	CqrsUrl		url = cqrs_transport_complete(&cqrs_transport_amqp, options->url);
	bool		tls = strcmp(url.scheme, cqrs_transport_amqp.tls_scheme) == 0;
	CqrsConnection *connection;
	CqrsSocket *sock;
	MemoryContext context;
	char		error[CQRS_SOCKET_ERROR_BYTES] = "";

	cqrs_failure_hide(url.user, url.password);
	sock = cqrs_socket_open(url.host, url.port, tls ? options->tls : NULL,
							options->connect_timeout_ms, error);
	if (sock == NULL)
	{
		cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT, "%s", error);
		return NULL;
	}
	context = AllocSetContextCreate(TopMemoryContext, "cqrs connection",
									ALLOCSET_SMALL_SIZES);
	connection = MemoryContextAllocZero(context, sizeof(CqrsConnection));
	connection->context = context;
	connection->frames = cqrs_amqp_frames_create(sock);
	connection->timeout_ms = options->connect_timeout_ms;
	connection->deadline = cqrs_socket_deadline(options->connect_timeout_ms);
	if (options->consumes)
		cqrs_amqp_create_consumer(connection, options);
	return connection;
}

/*
 * The exchange is declared as django-cqrs does: the broker answers a differing
 * declaration with 406 (PRECONDITION_FAILED).
 */
void
cqrs_amqp_declare_exchange(CqrsConnection *connection, int channel,
						   const char *exchange)
{
	amqp_exchange_declare_t declare = {0};

	declare.exchange = amqp_cstring_bytes(exchange);
	declare.type = amqp_cstring_bytes("topic");
	declare.durable = 1;
	cqrs_amqp_frames_put_method(connection->frames, channel,
								AMQP_EXCHANGE_DECLARE_METHOD, &declare);
	if (channel == CQRS_AMQP_CHANNEL)
		connection->declaring++;
}

/* Put a heartbeat into the output if one is due. */
static void
send_heartbeat(CqrsConnection *connection)
{
	int64		interval_ms = connection->heartbeat_s * INT64CONST(1000);

	if (interval_ms != 0 && !cqrs_amqp_frames_pending(connection->frames) &&
		cqrs_until_after_ms(cqrs_amqp_frames_sent_at(connection->frames),
							interval_ms / 2) == 0)
		cqrs_amqp_frames_put_heartbeat(connection->frames);
}

/* Returns false if the broker's heartbeats have failed to arrive. */
static bool
hears_broker(CqrsConnection *connection, CqrsFailure *failure)
{
	int64		interval_ms = connection->heartbeat_s * INT64CONST(1000);

	if (interval_ms == 0 ||
		cqrs_until_after_ms(cqrs_amqp_frames_received_at(connection->frames),
							2 * interval_ms) > 0)
		return true;
	cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
					 "connection lost: nothing came from the broker for %d s",
					 2 * connection->heartbeat_s);
	return false;
}

/* Put the broker's own words into "failure". */
void
cqrs_amqp_describe_close(CqrsFailure *failure, const char *action,
						 const amqp_method_t *method)
{
	char		reply_text[256];

	if (method->id == AMQP_CHANNEL_CLOSE_METHOD)
	{
		amqp_channel_close_t *close = method->decoded;

		cqrs_amqp_decode_text(reply_text, sizeof(reply_text),
							  close->reply_text);
		cqrs_failure_set(failure, blame_of_channel(close),
						 "%s: broker closed the channel: %d %s",
						 close->class_id == AMQP_EXCHANGE_CLASS ? "could not declare the exchange" :
						 action, close->reply_code, reply_text);
	}
	else if (method->id == AMQP_CONNECTION_CLOSE_METHOD)
	{
		amqp_connection_close_t *close = method->decoded;
		bool		malformed = close->reply_code == AMQP_FRAME_ERROR ||
		close->reply_code == AMQP_SYNTAX_ERROR;

		cqrs_amqp_decode_text(reply_text, sizeof(reply_text),
							  close->reply_text);
		cqrs_failure_set(failure, malformed ? CQRS_BLAME_MESSAGE : CQRS_BLAME_TRANSPORT,
						 "%s: broker closed the connection: %d %s", action,
						 close->reply_code, reply_text);
	}
	else
	{
		const char *name = amqp_method_name(method->id);

		cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
						 "%s: unexpected method %s from the broker", action,
						 name != NULL ? name :
						 psprintf("%u.%u", method->id >> 16, method->id & 0xFFFF));
	}
}

/*
 * RabbitMQ gives PRECONDITION_FAILED for a message that is too large, and for
 * an exchange of another type when it is declared.
 */
static CqrsBlame
blame_of_channel(const amqp_channel_close_t *close)
{
	bool		publishing = close->class_id == AMQP_BASIC_CLASS;

	switch (close->reply_code)
	{
		case AMQP_CONTENT_TOO_LARGE:
			return CQRS_BLAME_MESSAGE;
		case AMQP_PRECONDITION_FAILED:
			return publishing ? CQRS_BLAME_MESSAGE : CQRS_BLAME_ROUTE;
		case AMQP_ACCESS_REFUSED:
		case AMQP_NOT_FOUND:
			return CQRS_BLAME_ROUTE;
		case AMQP_RESOURCE_LOCKED:
			return CQRS_BLAME_LEASE;
		default:
			return CQRS_BLAME_TRANSPORT;
	}
}

void
cqrs_amqp_handle_frame(CqrsConnection *connection, const amqp_frame_t *frame,
					   const char *action, CqrsEvent *event,
					   CqrsFailure *failure)
{
	if (frame->channel == CQRS_AMQP_SIDE_CHANNEL &&
		connection->probe != CQRS_PROBE_CLOSED)
		cqrs_amqp_handle_probe(connection, frame, event, failure);
	else if (frame->channel == CQRS_AMQP_LEASE_CHANNEL &&
			 connection->token != NULL)
		cqrs_amqp_handle_token(connection, frame, action, event, failure);
	else if (!cqrs_amqp_is_channel_right(frame))
		cqrs_amqp_violated(event, failure, action, "frame on a wrong channel");
	else if (frame->channel == 0)
		handle_connection(connection, frame, action, event, failure);
	else if (connection->consumer != NULL)
		cqrs_amqp_handle_consumed(connection, frame, action, event, failure);
	else
		cqrs_amqp_handle_published(connection, frame, action, event, failure);
}

bool
cqrs_amqp_is_channel_right(const amqp_frame_t *frame)
{
	/* Heartbeats and the methods of the connection itself have channel 0. */
	bool		connections = frame->frame_type == AMQP_FRAME_HEARTBEAT ||
	(frame->frame_type == AMQP_FRAME_METHOD &&
	 frame->payload.method.id >> 16 == AMQP_CONNECTION_CLASS);

	return frame->channel == (connections ? 0 : CQRS_AMQP_CHANNEL);
}

/* Heartbeats and methods of the connection itself. */
static void
handle_connection(CqrsConnection *connection, const amqp_frame_t *frame,
				  const char *action, CqrsEvent *event, CqrsFailure *failure)
{
	const amqp_method_t *method = &frame->payload.method;

	/* Nothing to do for a heartbeat: its arrival has been noted. */
	if (frame->frame_type != AMQP_FRAME_METHOD)
		return;
	switch (method->id)
	{
		case AMQP_CONNECTION_BLOCKED_METHOD:
			connection->blocked = true;
			event->kind = CQRS_EVENT_BLOCKED;
			cqrs_amqp_decode_text(event->detail, sizeof(event->detail),
								  ((amqp_connection_blocked_t *) method->decoded)->reason);
			break;

		case AMQP_CONNECTION_UNBLOCKED_METHOD:
			connection->blocked = false;
			event->kind = CQRS_EVENT_UNBLOCKED;
			break;

		default:
			event->kind = CQRS_EVENT_FAILED;
			cqrs_amqp_describe_close(failure, action, method);
			break;
	}
}

void
cqrs_amqp_violated(CqrsEvent *event, CqrsFailure *failure,
				   const char *action, const char *what)
{
	event->kind = CQRS_EVENT_FAILED;
	cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
					 "%s: protocol violation by the broker: %s", action,
					 what);
}
