/*-------------------------------------------------------------------------
 *
 * amqp.c
 *	  The transport to a broker by AMQP 0-9-1.
 *
 * A connection has one channel in confirm mode for messages, and another one
 * for probes (amqp_probe.c).  Sending never waits.  Bytes that the socket does
 * not take stay in the output (amqp_frames.c), and meanwhile the broker's
 * frames are read, connection.blocked and heartbeats among them.
 *
 * A peer that has sent nothing for two heartbeat intervals is considered dead.
 * TCP_USER_TIMEOUT is not set: it would also end connections that the broker
 * does not read because of an alarm.
 *
 * A returned message arrives as a basic.return with its content, in several
 * frames, and then as a confirm.
 *
 * The broker is not trusted.  A frame ends the connection, with a reason, if
 * it is malformed (amqp_decode.c), is on the wrong channel for its kind,
 * answers no request of ours, or confirms a message that has not been sent.
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

/*
 * Defaults for parts that a URL leaves out, as in the AMQP URI specification
 * and in RabbitMQ's clients.  Those of user and virtual host are in
 * amqp_handshake.c.
 */
#define DEFAULT_HOST		"localhost"
#define DEFAULT_PORT		5672
#define DEFAULT_TLS_PORT	5671
/* RabbitMQ accepts no larger message, whatever its settings. */
#define MAX_BODY_BYTES		(512 * 1024 * 1024)
#define DELIVERY_PERSISTENT 2
/* The longest wait for the broker's answer to connection.close. */
#define CLOSE_TIMEOUT_MS	500
/* The most frames without an event that one poll() handles. */
#define POLL_FRAMES			16

/* The properties of an envelope, by their names. */
static const struct
{
	const char *name;
	amqp_flags_t flag;
	Size		offset;
}			text_properties[] =

{
	{"correlation_id", AMQP_BASIC_CORRELATION_ID_FLAG,
	offsetof(amqp_basic_properties_t, correlation_id)}
};

static CqrsConnection *amqp_connect_broker(const CqrsConnectOptions *options,
										   CqrsFailure *failure);
static bool amqp_can_publish(CqrsConnection *connection);
static void amqp_publish(CqrsConnection *connection,
						 const CqrsEnvelope *envelope);
static void set_property(amqp_basic_properties_t *properties,
						 const CqrsProperty *property);
static void amqp_poll_event(CqrsConnection *connection, CqrsEvent *event,
							CqrsFailure *failure);
static pgsocket amqp_socket(CqrsConnection *connection, bool *write);
static long amqp_wait_ms(CqrsConnection *connection);
static void amqp_close(CqrsConnection *connection, bool politely);
static CqrsConnection *open_connection(const CqrsConnectOptions *options,
									   CqrsFailure *failure);
static void send_heartbeat(CqrsConnection *connection);
static bool hears_broker(CqrsConnection *connection, CqrsFailure *failure);
static CqrsBlame blame_of_channel(const amqp_channel_close_t *close);
static void handle_method(CqrsConnection *connection,
						  const amqp_method_t *method, const char *action,
						  CqrsEvent *event, CqrsFailure *failure);
static void handle_confirm(CqrsConnection *connection, CqrsEventKind kind,
						   uint64 tag, bool multiple, const char *action,
						   CqrsEvent *event, CqrsFailure *failure);
static void handle_header(CqrsConnection *connection,
						  const amqp_frame_t *frame, const char *action,
						  CqrsEvent *event, CqrsFailure *failure);
static void handle_body(CqrsConnection *connection, Size length,
						const char *action, CqrsEvent *event,
						CqrsFailure *failure);
static void finish_return(CqrsConnection *connection, CqrsEvent *event);
static void violated(CqrsEvent *event, CqrsFailure *failure,
					 const char *action, const char *what);

const CqrsTransport cqrs_transport_amqp = {
	.scheme = "amqp",
	.tls_scheme = "amqps",
	.max_body = MAX_BODY_BYTES,
	.connect = amqp_connect_broker,
	.can_publish = amqp_can_publish,
	.publish = amqp_publish,
	.can_probe = cqrs_amqp_can_probe,
	.declare = cqrs_amqp_declare,
	.probe = cqrs_amqp_probe,
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
		 !cqrs_amqp_open_channel(connection, options, failure)))
	{
		amqp_close(connection, false);
		connection = NULL;
	}
	return connection;
}

static bool
amqp_can_publish(CqrsConnection *connection)
{
	/* If the flush fails, poll() is going to notice. */
	return cqrs_frames_has_room(connection->frames) ||
		(cqrs_frames_flush(connection->frames) &&
		 cqrs_frames_has_room(connection->frames));
}

static void
amqp_publish(CqrsConnection *connection, const CqrsEnvelope *envelope)
{
	cqrs_amqp_put_message(connection, CQRS_AMQP_CHANNEL, envelope);
}

void
cqrs_amqp_put_message(CqrsConnection *connection, int channel,
					  const CqrsEnvelope *envelope)
{
	amqp_basic_publish_t publish = {0};
	amqp_basic_properties_t properties = {0};

	publish.exchange = amqp_cstring_bytes(envelope->exchange);
	publish.routing_key = amqp_cstring_bytes(envelope->routing_key);
	publish.mandatory = 1;
	cqrs_frames_put_method(connection->frames, channel,
						   AMQP_BASIC_PUBLISH_METHOD, &publish);

	properties._flags = AMQP_BASIC_CONTENT_TYPE_FLAG |
		AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG |
		AMQP_BASIC_TIMESTAMP_FLAG;
	properties.content_type = amqp_cstring_bytes("text/plain");
	properties.delivery_mode = DELIVERY_PERSISTENT;
	properties.message_id = amqp_cstring_bytes(envelope->message_id);
	properties.timestamp = timestamptz_to_time_t(envelope->timestamp);
	for (int i = 0; i < envelope->nproperties; i++)
		set_property(&properties, &envelope->properties[i]);
	cqrs_frames_put_content(connection->frames, channel, &properties,
							envelope->body, envelope->body_length);
	if (channel == CQRS_AMQP_CHANNEL)
		connection->published++;
}

static void
set_property(amqp_basic_properties_t *properties, const CqrsProperty *property)
{
	for (int i = 0; i < lengthof(text_properties); i++)
	{
		if (strcmp(property->name, text_properties[i].name) != 0)
			continue;
		properties->_flags |= text_properties[i].flag;
		*(amqp_bytes_t *) ((char *) properties + text_properties[i].offset) =
			amqp_cstring_bytes(property->value);
		return;
	}
	Assert(false);				/* a name that the table does not have */
}

static void
amqp_poll_event(CqrsConnection *connection, CqrsEvent *event,
				CqrsFailure *failure)
{
	int			result;

	*event = connection->early;
	connection->early.kind = CQRS_EVENT_NONE;
	send_heartbeat(connection);
	result = cqrs_frames_flush(connection->frames) ? 1 : -1;
	for (int i = 0; i < POLL_FRAMES && result > 0 &&
		 event->kind == CQRS_EVENT_NONE; i++)
	{
		amqp_frame_t frame;

		result = cqrs_frames_read(connection->frames, &frame);
		if (result > 0)
			cqrs_amqp_handle_frame(connection, &frame, "publish", event,
								   failure);
	}
	connection->more = result > 0;
	if (event->kind != CQRS_EVENT_NONE)
		return;
	if (result < 0)
		cqrs_amqp_fail(failure, CQRS_BLAME_TRANSPORT, "connection lost: %s",
					   cqrs_frames_error(connection->frames));
	if (result < 0 || (result == 0 && !hears_broker(connection, failure)))
		event->kind = CQRS_EVENT_FAILED;
}

static pgsocket
amqp_socket(CqrsConnection *connection, bool *write)
{
	*write = cqrs_frames_pending(connection->frames);
	return cqrs_socket_fd(cqrs_frames_socket(connection->frames));
}

static long
amqp_wait_ms(CqrsConnection *connection)
{
	int64		interval_ms = connection->heartbeat_s * INT64CONST(1000);
	long		wait_ms;

	if (connection->more)
		return 0;
	if (interval_ms == 0)
		return -1;
	wait_ms = cqrs_until_after_ms(cqrs_frames_received_at(connection->frames),
								  2 * interval_ms);
	/* While output is pending, no heartbeat is sent. */
	if (!cqrs_frames_pending(connection->frames))
		wait_ms = Min(wait_ms,
					  cqrs_until_after_ms(cqrs_frames_sent_at(connection->frames),
										  interval_ms / 2));
	return wait_ms;
}

static void
amqp_close(CqrsConnection *connection, bool politely)
{
	if (politely && cqrs_frames_has_room(connection->frames))
	{
		amqp_connection_close_t close = {0};
		amqp_frame_t frame;
		CqrsFailure ignored;

		close.reply_code = AMQP_REPLY_SUCCESS;
		close.reply_text = amqp_cstring_bytes("goodbye");
		cqrs_frames_put_method(connection->frames, 0,
							   AMQP_CONNECTION_CLOSE_METHOD, &close);
		connection->deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														   CLOSE_TIMEOUT_MS);
		(void) cqrs_amqp_await(connection, AMQP_CONNECTION_CLOSE_OK_METHOD, "close",
							   &frame, &ignored);
	}
	cqrs_frames_destroy(connection->frames);
	MemoryContextDelete(connection->context);
}

/* A connection on which nothing has been sent; NULL on failure. */
static CqrsConnection *
open_connection(const CqrsConnectOptions *options, CqrsFailure *failure)
{
	const CqrsUrl *url = options->url;
	bool		tls = strcmp(url->scheme, cqrs_transport_amqp.tls_scheme) == 0;
	int			port = url->port;
	CqrsConnection *connection;
	CqrsSocket *sock;
	MemoryContext context;
	char		error[CQRS_SOCKET_ERROR_BYTES] = "";

	if (port == 0)
		port = tls ? DEFAULT_TLS_PORT : DEFAULT_PORT;
	sock = cqrs_socket_open(url->host != NULL ? url->host : DEFAULT_HOST,
							port, tls ? options->tls : NULL,
							options->connect_timeout_ms, error);
	if (sock == NULL)
	{
		cqrs_amqp_fail(failure, CQRS_BLAME_TRANSPORT, "%s", error);
		return NULL;
	}
	context = AllocSetContextCreate(TopMemoryContext, "cqrs connection",
									ALLOCSET_SMALL_SIZES);
	connection = MemoryContextAllocZero(context, sizeof(CqrsConnection));
	connection->context = context;
	connection->frames = cqrs_frames_create(sock);
	connection->deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   options->connect_timeout_ms);
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
	cqrs_frames_put_method(connection->frames, channel,
						   AMQP_EXCHANGE_DECLARE_METHOD, &declare);
	if (channel == CQRS_AMQP_CHANNEL)
		connection->declaring++;
}

/* Put a heartbeat into the output if one is due. */
static void
send_heartbeat(CqrsConnection *connection)
{
	int64		interval_ms = connection->heartbeat_s * INT64CONST(1000);

	if (interval_ms != 0 && !cqrs_frames_pending(connection->frames) &&
		cqrs_until_after_ms(cqrs_frames_sent_at(connection->frames),
							interval_ms / 2) == 0)
		cqrs_frames_put_heartbeat(connection->frames);
}

/* Returns false if the broker's heartbeats have failed to arrive. */
static bool
hears_broker(CqrsConnection *connection, CqrsFailure *failure)
{
	int64		interval_ms = connection->heartbeat_s * INT64CONST(1000);

	if (interval_ms == 0 ||
		cqrs_until_after_ms(cqrs_frames_received_at(connection->frames),
							2 * interval_ms) > 0)
		return true;
	cqrs_amqp_fail(failure, CQRS_BLAME_TRANSPORT,
				   "connection lost: nothing came from the broker for %d s",
				   2 * connection->heartbeat_s);
	return false;
}

void
cqrs_amqp_fail(CqrsFailure *failure, CqrsBlame blame, const char *format,...)
{
	va_list		args;

	failure->blame = blame;
	va_start(args, format);
	(void) vsnprintf(failure->reason, sizeof(failure->reason), format, args);
	va_end(args);
	/* A text that was too long may be cut in the middle of a character. */
	failure->reason[pg_mbcliplen(failure->reason, strlen(failure->reason),
								 sizeof(failure->reason) - 1)] = '\0';
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

		cqrs_decode_text(reply_text, sizeof(reply_text), close->reply_text);
		cqrs_amqp_fail(failure, blame_of_channel(close),
					   "could not %s: broker closed the channel: %d %s",
					   close->class_id == AMQP_EXCHANGE_CLASS ? "declare the exchange" :
					   action, close->reply_code, reply_text);
	}
	else if (method->id == AMQP_CONNECTION_CLOSE_METHOD)
	{
		amqp_connection_close_t *close = method->decoded;
		bool		malformed = close->reply_code == AMQP_FRAME_ERROR ||
		close->reply_code == AMQP_SYNTAX_ERROR;

		cqrs_decode_text(reply_text, sizeof(reply_text), close->reply_text);
		cqrs_amqp_fail(failure, malformed ? CQRS_BLAME_MESSAGE : CQRS_BLAME_TRANSPORT,
					   "could not %s: broker closed the connection: %d %s", action,
					   close->reply_code, reply_text);
	}
	else
	{
		const char *name = amqp_method_name(method->id);

		cqrs_amqp_fail(failure, CQRS_BLAME_TRANSPORT,
					   "could not %s: unexpected method %s from the broker", action,
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
	if (frame->channel == CQRS_AMQP_PROBE_CHANNEL &&
		connection->probe != CQRS_PROBE_CLOSED)
	{
		cqrs_amqp_handle_probe(connection, frame, event, failure);
		return;
	}
	if (!cqrs_amqp_is_channel_right(frame))
	{
		violated(event, failure, action, "frame on a wrong channel");
		return;
	}
	switch (frame->frame_type)
	{
		case AMQP_FRAME_METHOD:
			handle_method(connection, &frame->payload.method, action, event,
						  failure);
			break;

		case AMQP_FRAME_HEADER:
			handle_header(connection, frame, action, event, failure);
			break;

		case AMQP_FRAME_BODY:
			handle_body(connection, frame->payload.body_fragment.len, action,
						event, failure);
			break;

		default:
			/* Nothing to do for a heartbeat: its arrival has been noted. */
			break;
	}
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

static void
handle_method(CqrsConnection *connection, const amqp_method_t *method,
			  const char *action, CqrsEvent *event, CqrsFailure *failure)
{
	if (connection->returning != CQRS_RETURN_NONE &&
		method->id >> 16 == AMQP_BASIC_CLASS)
	{
		violated(event, failure, action, "method within the content of a returned message");
		return;
	}
	switch (method->id)
	{
		case AMQP_BASIC_ACK_METHOD:
			{
				amqp_basic_ack_t *ack = method->decoded;

				handle_confirm(connection, CQRS_EVENT_ACK, ack->delivery_tag,
							   ack->multiple, action, event, failure);
				break;
			}

		case AMQP_BASIC_NACK_METHOD:
			{
				amqp_basic_nack_t *nack = method->decoded;

				handle_confirm(connection, CQRS_EVENT_NACK, nack->delivery_tag,
							   nack->multiple, action, event, failure);
				break;
			}

		case AMQP_BASIC_RETURN_METHOD:
			connection->returning = CQRS_RETURN_HEADER;
			break;

		case AMQP_EXCHANGE_DECLARE_OK_METHOD:
			if (connection->declaring == 0)
				violated(event, failure, action, "unexpected AMQP_EXCHANGE_DECLARE_OK_METHOD");
			else
				connection->declaring--;
			break;

		case AMQP_CONNECTION_BLOCKED_METHOD:
			event->kind = CQRS_EVENT_BLOCKED;
			cqrs_decode_text(event->detail, sizeof(event->detail),
							 ((amqp_connection_blocked_t *) method->decoded)->reason);
			break;

		case AMQP_CONNECTION_UNBLOCKED_METHOD:
			event->kind = CQRS_EVENT_UNBLOCKED;
			break;

		default:
			event->kind = CQRS_EVENT_FAILED;
			cqrs_amqp_describe_close(failure, action, method);
			break;
	}
}

/*
 * A message that has not been sent completely cannot have been confirmed, and
 * its body must stay.  Tag 0 with "multiple" stands for all before it.
 */
static void
handle_confirm(CqrsConnection *connection, CqrsEventKind kind, uint64 tag,
			   bool multiple, const char *action, CqrsEvent *event,
			   CqrsFailure *failure)
{
	uint64		last = connection->published;

	if (last > 0 &&
		cqrs_frames_body_channel(connection->frames) == CQRS_AMQP_CHANNEL)
		last--;
	if (tag == 0 && multiple)
		tag = last;
	if (tag == 0 || tag > last)
	{
		violated(event, failure, action, "confirm of a message that was not sent");
		return;
	}
	event->kind = kind;
	event->tag = tag;
	event->multiple = multiple;
}

static void
handle_header(CqrsConnection *connection, const amqp_frame_t *frame,
			  const char *action, CqrsEvent *event, CqrsFailure *failure)
{
	amqp_bytes_t message_id;

	if (connection->returning != CQRS_RETURN_HEADER)
	{
		violated(event, failure, action, "content of no message");
		return;
	}
	if (frame->payload.properties.class_id != AMQP_BASIC_CLASS ||
		frame->payload.properties.body_size > MaxAllocSize ||
		!cqrs_decode_message_id(frame->payload.properties.raw, &message_id))
	{
		violated(event, failure, action, "returned message that is none of ours");
		return;
	}
	cqrs_decode_text(connection->return_id, sizeof(connection->return_id),
					 message_id);
	connection->returning = CQRS_RETURN_BODY;
	connection->return_rest = frame->payload.properties.body_size;
	if (connection->return_rest == 0)
		finish_return(connection, event);
}

static void
handle_body(CqrsConnection *connection, Size length, const char *action,
			CqrsEvent *event, CqrsFailure *failure)
{
	if (connection->returning != CQRS_RETURN_BODY)
		violated(event, failure, action, "content of no message");
	else if (length == 0 || length > connection->return_rest)
		violated(event, failure, action, "returned message of another size than its header says");
	else
	{
		connection->return_rest -= length;
		if (connection->return_rest == 0)
			finish_return(connection, event);
	}
}

static void
finish_return(CqrsConnection *connection, CqrsEvent *event)
{
	connection->returning = CQRS_RETURN_NONE;
	event->kind = CQRS_EVENT_RETURNED;
	strlcpy(event->detail, connection->return_id, sizeof(event->detail));
}

static void
violated(CqrsEvent *event, CqrsFailure *failure, const char *action,
		 const char *what)
{
	event->kind = CQRS_EVENT_FAILED;
	cqrs_amqp_fail(failure, CQRS_BLAME_TRANSPORT,
				   "could not %s: protocol violation by the broker: %s", action,
				   what);
}
