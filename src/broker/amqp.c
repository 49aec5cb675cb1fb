/*-------------------------------------------------------------------------
 *
 * amqp.c
 *	  The way to a broker by AMQP 0-9-1.
 *
 * One connection with one channel in confirm mode.  Sending never waits: what
 * the socket does not take stays in the output (amqp_frames.c), and meanwhile
 * the broker's frames are read, connection.blocked and heartbeats among them.
 *
 * A peer that has sent nothing for two intervals of the heartbeat is taken for
 * dead.  There is no TCP_USER_TIMEOUT: it would also end connections on which
 * the broker does not read because of an alarm.
 *
 * A returned message arrives as a basic.return with its content, in several
 * frames, and then as a confirm.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/timing.h"
#include "base/url.h"
#include "broker/amqp.h"

#define DELIVERY_PERSISTENT 2
/* How long the broker may take to answer a polite farewell. */
#define CLOSE_TIMEOUT_MS	500

static CqrsConnection *amqp_connect_broker(const CqrsConnectOptions *options,
										   CqrsFailure *failure);
static bool amqp_can_publish(CqrsConnection *connection);
static void amqp_publish(CqrsConnection *connection,
						 const CqrsEnvelope *envelope);
static void amqp_poll_event(CqrsConnection *connection, CqrsEvent *event,
							CqrsFailure *failure);
static pgsocket amqp_socket(CqrsConnection *connection, bool *write);
static long amqp_wait_ms(CqrsConnection *connection);
static void amqp_close(CqrsConnection *connection, bool politely);
static CqrsConnection *open_connection(const CqrsUrl *url,
									   const CqrsConnectOptions *options,
									   CqrsFailure *failure);
static bool is_declared(const CqrsConnection *connection,
						const char *exchange);
static bool check_heartbeat(CqrsConnection *connection, CqrsFailure *failure);
static CqrsBlame blame_of_channel(const amqp_channel_close_t *close);
static void handle_frame(CqrsConnection *connection, const amqp_frame_t *frame,
						 CqrsEvent *event, CqrsFailure *failure);
static void copy_bytes(char *buffer, Size size, amqp_bytes_t bytes);
static void finish_return(CqrsConnection *connection, CqrsEvent *event);

const CqrsTransport cqrs_transport_amqp = {
	amqp_connect_broker,
	amqp_can_publish,
	amqp_publish,
	amqp_poll_event,
	amqp_socket,
	amqp_wait_ms,
	amqp_close
};

static CqrsConnection *
amqp_connect_broker(const CqrsConnectOptions *options, CqrsFailure *failure)
{
	CqrsConnection *connection;
	CqrsUrl		url;
	const char *reason;
	char	   *buffer = pstrdup(options->url);

	if (!cqrs_url_parse(buffer, options->host, &url, &reason))
	{
		cqrs_amqp_fail(failure, CQRS_BLAME_TRANSPORT, "invalid URL: %s", reason);
		return NULL;
	}
	connection = open_connection(&url, options, failure);
	if (connection != NULL &&
		(!cqrs_amqp_log_in(connection, &url, options->heartbeat_s, failure) ||
		 !cqrs_amqp_open_channel(connection, options, failure)))
	{
		amqp_close(connection, false);
		connection = NULL;
	}
	explicit_bzero(buffer, strlen(options->url));
	pfree(buffer);
	return connection;
}

static bool
amqp_can_publish(CqrsConnection *connection)
{
	/* When this fails, poll() is going to notice. */
	return cqrs_frames_has_room(connection->frames) ||
		(cqrs_frames_flush(connection->frames) &&
		 cqrs_frames_has_room(connection->frames));
}

static void
amqp_publish(CqrsConnection *connection, const CqrsEnvelope *envelope)
{
	amqp_basic_publish_t publish = {0};
	amqp_basic_properties_t properties = {0};

	if (!is_declared(connection, envelope->exchange))
		cqrs_amqp_declare_exchange(connection, envelope->exchange);

	publish.exchange = amqp_cstring_bytes(envelope->exchange);
	publish.routing_key = amqp_cstring_bytes(envelope->routing_key);
	publish.mandatory = 1;
	cqrs_frames_put_method(connection->frames, CQRS_AMQP_CHANNEL,
						   AMQP_BASIC_PUBLISH_METHOD, &publish);

	properties._flags = AMQP_BASIC_CONTENT_TYPE_FLAG |
		AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG |
		AMQP_BASIC_TIMESTAMP_FLAG;
	properties.content_type = amqp_cstring_bytes("text/plain");
	properties.delivery_mode = DELIVERY_PERSISTENT;
	properties.message_id = amqp_cstring_bytes(envelope->message_id);
	properties.timestamp = timestamptz_to_time_t(envelope->timestamp);
	if (envelope->correlation_id != NULL)
	{
		properties._flags |= AMQP_BASIC_CORRELATION_ID_FLAG;
		properties.correlation_id = amqp_cstring_bytes(envelope->correlation_id);
	}
	cqrs_frames_put_content(connection->frames, CQRS_AMQP_CHANNEL, &properties,
							envelope->body, envelope->body_length);
}

static void
amqp_poll_event(CqrsConnection *connection, CqrsEvent *event,
				CqrsFailure *failure)
{
	int			result = cqrs_frames_flush(connection->frames) ? 1 : -1;

	*event = connection->early;
	connection->early.kind = CQRS_EVENT_NONE;
	while (event->kind == CQRS_EVENT_NONE && result > 0)
	{
		amqp_frame_t frame;

		result = cqrs_frames_read(connection->frames, &frame);
		if (result > 0)
			handle_frame(connection, &frame, event, failure);
	}
	if (event->kind != CQRS_EVENT_NONE)
		return;
	if (result < 0)
	{
		cqrs_amqp_fail(failure, CQRS_BLAME_TRANSPORT, "connection lost: %s",
					   cqrs_frames_error(connection->frames));
		event->kind = CQRS_EVENT_FAILED;
	}
	else if (!check_heartbeat(connection, failure))
		event->kind = CQRS_EVENT_FAILED;
}

static pgsocket
amqp_socket(CqrsConnection *connection, bool *write)
{
	*write = cqrs_frames_pending(connection->frames);
	return cqrs_wire_socket(cqrs_frames_stream(connection->frames));
}

static long
amqp_wait_ms(CqrsConnection *connection)
{
	int64		interval_ms = connection->heartbeat_s * INT64CONST(1000);
	long		wait_ms;

	if (interval_ms == 0)
		return -1;
	wait_ms = cqrs_until_after_ms(cqrs_frames_received_at(connection->frames),
								  2 * interval_ms);
	/* Output that cannot be sent now leaves no room for a heartbeat. */
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

static CqrsConnection *
open_connection(const CqrsUrl *url, const CqrsConnectOptions *options,
				CqrsFailure *failure)
{
	CqrsConnection *connection;
	CqrsWire   *stream;
	CqrsFrames *frames;
	MemoryContext context;
	char		error[CQRS_WIRE_ERROR_BYTES] = "";

	stream = cqrs_wire_open(url->host, url->port,
							url->tls ? &options->tls : NULL,
							options->connect_timeout_ms, error);
	if (stream == NULL)
	{
		cqrs_amqp_fail(failure, CQRS_BLAME_TRANSPORT, "%s", error);
		return NULL;
	}
	frames = cqrs_frames_create(stream);
	if (frames == NULL)
	{
		cqrs_amqp_fail(failure, CQRS_BLAME_TRANSPORT, "out of memory");
		return NULL;
	}

	context = AllocSetContextCreate(TopMemoryContext, "cqrs connection",
									ALLOCSET_SMALL_SIZES);
	connection = MemoryContextAllocZero(context, sizeof(CqrsConnection));
	connection->context = context;
	connection->frames = frames;
	connection->deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   options->connect_timeout_ms);
	return connection;
}

/* As django-cqrs declares it; another form is refused with 406. */
void
cqrs_amqp_declare_exchange(CqrsConnection *connection, const char *exchange)
{
	amqp_exchange_declare_t declare = {0};
	MemoryContext caller;

	declare.exchange = amqp_cstring_bytes(exchange);
	declare.type = amqp_cstring_bytes("topic");
	declare.durable = 1;
	cqrs_frames_put_method(connection->frames, CQRS_AMQP_CHANNEL,
						   AMQP_EXCHANGE_DECLARE_METHOD, &declare);

	caller = MemoryContextSwitchTo(connection->context);
	connection->exchanges = lappend(connection->exchanges, pstrdup(exchange));
	MemoryContextSwitchTo(caller);
}

static bool
is_declared(const CqrsConnection *connection, const char *exchange)
{
	ListCell   *lc;

	foreach(lc, connection->exchanges)
	{
		if (strcmp(lfirst(lc), exchange) == 0)
			return true;
	}
	return false;
}

/* Send a heartbeat when it is time to; false when those of the peer fail. */
static bool
check_heartbeat(CqrsConnection *connection, CqrsFailure *failure)
{
	int64		interval_ms = connection->heartbeat_s * INT64CONST(1000);

	if (interval_ms == 0)
		return true;
	if (cqrs_until_after_ms(cqrs_frames_received_at(connection->frames),
							2 * interval_ms) == 0)
	{
		cqrs_amqp_fail(failure, CQRS_BLAME_TRANSPORT,
					   "connection lost: nothing came from the broker for %d s",
					   2 * connection->heartbeat_s);
		return false;
	}
	if (!cqrs_frames_pending(connection->frames) &&
		cqrs_until_after_ms(cqrs_frames_sent_at(connection->frames),
							interval_ms / 2) == 0)
	{
		cqrs_frames_put_heartbeat(connection->frames);
		/* A failure shows in the next poll(). */
		(void) cqrs_frames_flush(connection->frames);
	}
	return true;
}

void
cqrs_amqp_fail(CqrsFailure *failure, CqrsBlame blame, const char *format,...)
{
	va_list		args;

	failure->blame = blame;
	va_start(args, format);
	(void) vsnprintf(failure->text, sizeof(failure->text), format, args);
	va_end(args);
}

/* Put the broker's own words into "failure". */
void
cqrs_amqp_describe_close(CqrsFailure *failure, const char *action,
						 const amqp_method_t *method)
{
	char text[	256];

	if (method->id == AMQP_CHANNEL_CLOSE_METHOD)
	{
		amqp_channel_close_t *close = method->decoded;

		copy_bytes(text, sizeof(text), close->reply_text);
		cqrs_amqp_fail(failure, blame_of_channel(close),
					   "could not %s: broker closed the channel: %d %s",
					   close->class_id == AMQP_EXCHANGE_CLASS ? "declare the exchange" :
					   action, close->reply_code, text);
	}
	else if (method->id == AMQP_CONNECTION_CLOSE_METHOD)
	{
		amqp_connection_close_t *close = method->decoded;
		bool		malformed = close->reply_code == AMQP_FRAME_ERROR ||
		close->reply_code == AMQP_SYNTAX_ERROR;

		copy_bytes(text, sizeof(text), close->reply_text);
		cqrs_amqp_fail(failure, malformed ? CQRS_BLAME_MESSAGE : CQRS_BLAME_TRANSPORT,
					   "could not %s: broker closed the connection: %d %s", action,
					   close->reply_code, text);
	}
	else
		cqrs_amqp_fail(failure, CQRS_BLAME_TRANSPORT,
					   "could not %s: unexpected method %s from the broker", action,
					   amqp_method_name(method->id));
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

static void
handle_frame(CqrsConnection *connection, const amqp_frame_t *frame,
			 CqrsEvent *event, CqrsFailure *failure)
{
	switch (frame->frame_type)
	{
		case AMQP_FRAME_METHOD:
			cqrs_amqp_handle_method(connection, &frame->payload.method, event, failure);
			break;

		case AMQP_FRAME_HEADER:
			if (connection->returning)
			{
				amqp_basic_properties_t *properties =
				frame->payload.properties.decoded;

				copy_bytes(connection->return_id,
						   sizeof(connection->return_id),
						   properties->message_id);
				connection->return_rest = frame->payload.properties.body_size;
				if (connection->return_rest == 0)
					finish_return(connection, event);
			}
			break;

		case AMQP_FRAME_BODY:
			if (connection->returning)
			{
				connection->return_rest -= Min(connection->return_rest,
											   frame->payload.body_fragment.len);
				if (connection->return_rest == 0)
					finish_return(connection, event);
			}
			break;

		default:
			break;
	}
}

void
cqrs_amqp_handle_method(CqrsConnection *connection, const amqp_method_t *method,
						CqrsEvent *event, CqrsFailure *failure)
{
	switch (method->id)
	{
		case AMQP_BASIC_ACK_METHOD:
			{
				amqp_basic_ack_t *ack = method->decoded;

				event->kind = CQRS_EVENT_ACK;
				event->tag = ack->delivery_tag;
				event->multiple = ack->multiple;
				break;
			}

		case AMQP_BASIC_NACK_METHOD:
			{
				amqp_basic_nack_t *nack = method->decoded;

				event->kind = CQRS_EVENT_NACK;
				event->tag = nack->delivery_tag;
				event->multiple = nack->multiple;
				break;
			}

		case AMQP_BASIC_RETURN_METHOD:
			connection->returning = true;
			break;

		case AMQP_EXCHANGE_DECLARE_OK_METHOD:
			break;

		case AMQP_CONNECTION_BLOCKED_METHOD:
			event->kind = CQRS_EVENT_BLOCKED;
			copy_bytes(event->text, sizeof(event->text),
					   ((amqp_connection_blocked_t *) method->decoded)->reason);
			break;

		case AMQP_CONNECTION_UNBLOCKED_METHOD:
			event->kind = CQRS_EVENT_UNBLOCKED;
			break;

		default:
			event->kind = CQRS_EVENT_FAILED;
			cqrs_amqp_describe_close(failure, "publish", method);
			break;
	}
}

static void
copy_bytes(char *buffer, Size size, amqp_bytes_t bytes)
{
	Size		length = Min(size - 1, bytes.len);

	memcpy(buffer, bytes.bytes, length);
	buffer[length] = '\0';
}

static void
finish_return(CqrsConnection *connection, CqrsEvent *event)
{
	connection->returning = false;
	event->kind = CQRS_EVENT_RETURNED;
	strlcpy(event->text, connection->return_id, sizeof(event->text));
}
