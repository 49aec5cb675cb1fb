/*-------------------------------------------------------------------------
 *
 * transport_amqp.c
 *	  The way to a broker by AMQP 0-9-1, on librabbitmq.
 *
 * One connection with one channel in confirm mode.  librabbitmq blocks in
 * three places: in getaddrinfo() and connect(), which are done here instead,
 * waiting on the latch as well; in the handshake, which has a timeout; and in
 * a send to a broker that does not read, for ever.  The last two are ended by
 * interrupt(), which shuts the socket down: poll() and send() then fail at
 * once.  TCP_USER_TIMEOUT ends a send to a peer that is gone.
 *
 * Frames are read one by one instead of by the library's calls for confirms,
 * because a returned message arrives as a basic.return with its content, in
 * several frames, and then as a confirm.
 *
 * librabbitmq calls abort() when its functions are used in the wrong order or
 * with an unknown kind of socket or mechanism; nothing here depends on what
 * the broker sends.  Its memory is malloc'd and belongs to the connection
 * object; close() is the only place that gives it back.  Functions here raise
 * no PostgreSQL errors, except that waiting for a connection may end the
 * process with the postmaster.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "transport.h"
#include "url.h"

#define CHANNEL			1
#define FRAME_MAX		131072
#define DELIVERY_PERSISTENT 2

struct CqrsConnection
{
	amqp_connection_state_t state;
	bool		returning;		/* reading the content of a returned message */
	uint64_t	return_rest;	/* bytes of its body that are to come */
	char		return_key[256];	/* its routing key */
};

/* Larger bodies may wait even for a socket that can be written to. */
#define SMALL_BODY_BYTES	16384

/* For interrupt(): the socket in use, and whether it may be waited for. */
static volatile sig_atomic_t active_socket = -1;
static volatile sig_atomic_t waiting = false;

static CqrsConnection *amqp_connect_broker(const CqrsConnectOptions *options,
										   char *error);
static bool amqp_publish(CqrsConnection *connection,
						 const CqrsEnvelope *envelope, char *error);
static void amqp_poll_event(CqrsConnection *connection, CqrsEvent *event,
							char *error);
static pgsocket amqp_socket(CqrsConnection *connection);
static void amqp_close(CqrsConnection *connection, bool politely);
static void amqp_interrupt(void);
static void begin_waiting(void);
static bool can_write(void);
static int	open_socket(const CqrsUrl *url, const CqrsConnectOptions *options,
						char *error);
static int	connect_address(const struct addrinfo *address, int timeout_ms,
							char *error);
static void set_socket_options(int fd, int heartbeat_s);
static bool log_in(CqrsConnection *connection, const CqrsUrl *url,
				   const CqrsConnectOptions *options, char *error);
static bool open_channel(CqrsConnection *connection, const char *exchange,
						 char *error);
static bool check_reply(CqrsConnection *connection, const char *action,
						char *error);
static void describe_close(char *error, const char *action,
						   const amqp_method_t *method);
static void handle_frame(CqrsConnection *connection, const amqp_frame_t *frame,
						 CqrsEvent *event, char *error);
static void handle_method(CqrsConnection *connection,
						  const amqp_method_t *method, CqrsEvent *event,
						  char *error);
static void copy_bytes(char *buffer, Size size, amqp_bytes_t bytes);
static void finish_return(CqrsConnection *connection, CqrsEvent *event);

const CqrsTransport cqrs_transport_amqp = {
	amqp_connect_broker,
	amqp_publish,
	amqp_poll_event,
	amqp_socket,
	amqp_close,
	amqp_interrupt
};

static CqrsConnection *
amqp_connect_broker(const CqrsConnectOptions *options, char *error)
{
	CqrsConnection *connection;
	amqp_socket_t *socket;
	CqrsUrl		url;
	const char *reason;
	char	   *buffer = pstrdup(options->url);
	int			fd;

	if (!cqrs_url_parse(buffer, &url, &reason))
	{
		snprintf(error, CQRS_TRANSPORT_ERROR_BYTES, "invalid URL: %s", reason);
		pfree(buffer);
		return NULL;
	}
	fd = open_socket(&url, options, error);
	if (fd < 0)
	{
		pfree(buffer);
		return NULL;
	}

	connection = MemoryContextAllocZero(TopMemoryContext,
										sizeof(CqrsConnection));
	connection->state = amqp_new_connection();
	socket = connection->state != NULL ?
		amqp_tcp_socket_new(connection->state) : NULL;
	if (socket == NULL)
	{
		snprintf(error, CQRS_TRANSPORT_ERROR_BYTES, "out of memory");
		close(fd);
		if (connection->state != NULL)
			amqp_destroy_connection(connection->state);
		pfree(connection);
		pfree(buffer);
		return NULL;
	}
	amqp_tcp_socket_set_sockfd(socket, fd);
	active_socket = fd;

	begin_waiting();
	if (!log_in(connection, &url, options, error) ||
		!open_channel(connection, options->exchange, error))
	{
		amqp_close(connection, false);
		connection = NULL;
	}
	waiting = false;
	explicit_bzero(buffer, strlen(options->url));
	pfree(buffer);
	return connection;
}

static bool
amqp_publish(CqrsConnection *connection, const CqrsEnvelope *envelope,
			 char *error)
{
	amqp_basic_properties_t properties = {0};
	amqp_bytes_t body;
	int			status;

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
	body.bytes = unconstify(char *, envelope->body);
	body.len = envelope->body_length;

	if (envelope->body_length > SMALL_BODY_BYTES || !can_write())
		begin_waiting();
	status = amqp_basic_publish(connection->state, CHANNEL,
								amqp_cstring_bytes(envelope->exchange),
								amqp_cstring_bytes(envelope->routing_key),
								1, 0, &properties, body);
	waiting = false;
	if (status == AMQP_STATUS_OK)
		return true;
	snprintf(error, CQRS_TRANSPORT_ERROR_BYTES, "could not send: %s",
			 amqp_error_string2(status));
	return false;
}

static void
amqp_poll_event(CqrsConnection *connection, CqrsEvent *event, char *error)
{
	event->kind = CQRS_EVENT_NONE;
	while (event->kind == CQRS_EVENT_NONE)
	{
		struct timeval no_wait = {0, 0};
		amqp_frame_t frame;
		int			status;

		/* Frees what earlier frames were decoded into. */
		amqp_maybe_release_buffers(connection->state);
		status = amqp_simple_wait_frame_noblock(connection->state, &frame,
												&no_wait);
		if (status == AMQP_STATUS_TIMEOUT)
			return;
		if (status != AMQP_STATUS_OK)
		{
			event->kind = CQRS_EVENT_FAILED;
			snprintf(error, CQRS_TRANSPORT_ERROR_BYTES,
					 "connection lost: %s", amqp_error_string2(status));
			return;
		}
		handle_frame(connection, &frame, event, error);
	}
}

static pgsocket
amqp_socket(CqrsConnection *connection)
{
	return amqp_get_sockfd(connection->state);
}

/* Destroying the connection object closes its socket, too. */
static void
amqp_close(CqrsConnection *connection, bool politely)
{
	if (politely)
	{
		begin_waiting();
		(void) amqp_connection_close(connection->state, AMQP_REPLY_SUCCESS);
	}
	active_socket = -1;
	waiting = false;
	(void) amqp_destroy_connection(connection->state);
	pfree(connection);
}

static void
amqp_interrupt(void)
{
	int			fd = active_socket;

	if (waiting && fd >= 0)
		(void) shutdown(fd, SHUT_RDWR);
}

/* From here on interrupt() has an effect, also if it was called before. */
static void
begin_waiting(void)
{
	waiting = true;
	if (ShutdownRequestPending)
		amqp_interrupt();
}

/* Whether a small message can be sent without waiting. */
static bool
can_write(void)
{
	struct pollfd entry = {0};

	entry.fd = active_socket;
	entry.events = POLLOUT;
	return poll(&entry, 1, 0) == 1;
}

/* A connected, nonblocking socket, or -1. */
static int
open_socket(const CqrsUrl *url, const CqrsConnectOptions *options, char *error)
{
	struct addrinfo hints = {0};
	struct addrinfo *addresses;
	char		port[16];
	int			status;
	int			fd = -1;

	hints.ai_family = AF_UNSPEC;
	hints.ai_socktype = SOCK_STREAM;
	snprintf(port, sizeof(port), "%d", url->port);
	status = getaddrinfo(url->host, port, &hints, &addresses);
	if (status != 0)
	{
		snprintf(error, CQRS_TRANSPORT_ERROR_BYTES,
				 "could not resolve host \"%s\": %s", url->host,
				 gai_strerror(status));
		return -1;
	}

	for (struct addrinfo *address = addresses;
		 address != NULL && fd < 0 && !ShutdownRequestPending;
		 address = address->ai_next)
		fd = connect_address(address, options->connect_timeout_ms, error);
	freeaddrinfo(addresses);

	if (fd >= 0)
		set_socket_options(fd, options->heartbeat_s);
	return fd;
}

static int
connect_address(const struct addrinfo *address, int timeout_ms, char *error)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   timeout_ms);
	int			fd = socket(address->ai_family,
							address->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC,
							address->ai_protocol);
	int			result = 0;
	socklen_t	length = sizeof(result);

	if (fd < 0)
	{
		snprintf(error, CQRS_TRANSPORT_ERROR_BYTES,
				 "could not create a socket: %s", strerror(errno));
		return -1;
	}
	if (connect(fd, address->ai_addr, address->ai_addrlen) == 0)
		return fd;

	result = errno;
	while (result == EINPROGRESS)
	{
		long		rest_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
															  deadline);
		int			events = WaitLatchOrSocket(MyLatch,
											   WL_LATCH_SET | WL_TIMEOUT |
											   WL_SOCKET_WRITEABLE |
											   WL_EXIT_ON_PM_DEATH,
											   fd, rest_ms,
											   PG_WAIT_EXTENSION);

		if (events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		if (ShutdownRequestPending)
			result = EINTR;
		else if (events & WL_SOCKET_WRITEABLE)
		{
			if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &result, &length) < 0)
				result = errno;
			if (result == 0)
				return fd;
		}
		else if (events & WL_TIMEOUT)
			result = ETIMEDOUT;
	}

	snprintf(error, CQRS_TRANSPORT_ERROR_BYTES, "could not connect: %s",
			 strerror(result));
	close(fd);
	return -1;
}

/* Without these the connection works, but a dead peer is noticed later. */
static void
set_socket_options(int fd, int heartbeat_s)
{
	int			on = 1;
	unsigned int timeout_ms = heartbeat_s * 2 * 1000;

	(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void) setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
#ifdef TCP_USER_TIMEOUT
	if (timeout_ms > 0)
		(void) setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms,
						  sizeof(timeout_ms));
#endif
}

static bool
log_in(CqrsConnection *connection, const CqrsUrl *url,
	   const CqrsConnectOptions *options, char *error)
{
	struct timeval timeout;
	amqp_table_entry_t capabilities[2];
	amqp_table_entry_t properties[2];
	amqp_table_t table;
	amqp_rpc_reply_t reply;

	timeout.tv_sec = options->connect_timeout_ms / 1000;
	timeout.tv_usec = options->connect_timeout_ms % 1000 * 1000;
	(void) amqp_set_handshake_timeout(connection->state, &timeout);
	(void) amqp_set_rpc_timeout(connection->state, &timeout);

	memset(capabilities, 0, sizeof(capabilities));
	capabilities[0].key = amqp_cstring_bytes("connection.blocked");
	capabilities[0].value.kind = AMQP_FIELD_KIND_BOOLEAN;
	capabilities[0].value.value.boolean = 1;
	capabilities[1].key = amqp_cstring_bytes("publisher_confirms");
	capabilities[1].value.kind = AMQP_FIELD_KIND_BOOLEAN;
	capabilities[1].value.value.boolean = 1;

	memset(properties, 0, sizeof(properties));
	properties[0].key = amqp_cstring_bytes("capabilities");
	properties[0].value.kind = AMQP_FIELD_KIND_TABLE;
	properties[0].value.value.table.num_entries = lengthof(capabilities);
	properties[0].value.value.table.entries = capabilities;
	properties[1].key = amqp_cstring_bytes("connection_name");
	properties[1].value.kind = AMQP_FIELD_KIND_UTF8;
	properties[1].value.value.bytes = amqp_cstring_bytes("cqrs publisher");
	table.num_entries = lengthof(properties);
	table.entries = properties;

	reply = amqp_login_with_properties(connection->state, url->vhost, 0,
									   FRAME_MAX, options->heartbeat_s, &table,
									   AMQP_SASL_METHOD_PLAIN, url->user,
									   url->password);
	if (reply.reply_type == AMQP_RESPONSE_NORMAL)
		return true;
	if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION)
		describe_close(error, "log in", &reply.reply);
	else
		snprintf(error, CQRS_TRANSPORT_ERROR_BYTES, "could not log in: %s",
				 amqp_error_string2(reply.library_error));
	return false;
}

static bool
open_channel(CqrsConnection *connection, const char *exchange, char *error)
{
	amqp_channel_open(connection->state, CHANNEL);
	if (!check_reply(connection, "open a channel", error))
		return false;

	/* As django-cqrs declares it; another form is refused with 406. */
	amqp_exchange_declare(connection->state, CHANNEL,
						  amqp_cstring_bytes(exchange),
						  amqp_cstring_bytes("topic"), 0, 1, 0, 0,
						  amqp_empty_table);
	if (!check_reply(connection, "declare the exchange", error))
		return false;

	amqp_confirm_select(connection->state, CHANNEL);
	return check_reply(connection, "enable confirms", error);
}

static bool
check_reply(CqrsConnection *connection, const char *action, char *error)
{
	amqp_rpc_reply_t reply = amqp_get_rpc_reply(connection->state);

	if (reply.reply_type == AMQP_RESPONSE_NORMAL)
		return true;
	if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION)
		describe_close(error, action, &reply.reply);
	else
		snprintf(error, CQRS_TRANSPORT_ERROR_BYTES, "could not %s: %s",
				 action, amqp_error_string2(reply.library_error));
	return false;
}

/* Put the broker's own words into "error". */
static void
describe_close(char *error, const char *action, const amqp_method_t *method)
{
	char text[	256];

	if (method->id == AMQP_CHANNEL_CLOSE_METHOD)
	{
		amqp_channel_close_t *close = method->decoded;

		copy_bytes(text, sizeof(text), close->reply_text);
		snprintf(error, CQRS_TRANSPORT_ERROR_BYTES,
				 "could not %s: broker closed the channel: %d %s", action,
				 close->reply_code, text);
	}
	else if (method->id == AMQP_CONNECTION_CLOSE_METHOD)
	{
		amqp_connection_close_t *close = method->decoded;

		copy_bytes(text, sizeof(text), close->reply_text);
		snprintf(error, CQRS_TRANSPORT_ERROR_BYTES,
				 "could not %s: broker closed the connection: %d %s", action,
				 close->reply_code, text);
	}
	else
		snprintf(error, CQRS_TRANSPORT_ERROR_BYTES,
				 "could not %s: unexpected method %s from the broker", action,
				 amqp_method_name(method->id));
}

static void
handle_frame(CqrsConnection *connection, const amqp_frame_t *frame,
			 CqrsEvent *event, char *error)
{
	switch (frame->frame_type)
	{
		case AMQP_FRAME_METHOD:
			handle_method(connection, &frame->payload.method, event, error);
			break;

		case AMQP_FRAME_HEADER:
			if (connection->returning)
			{
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

static void
handle_method(CqrsConnection *connection, const amqp_method_t *method,
			  CqrsEvent *event, char *error)
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
			copy_bytes(connection->return_key, sizeof(connection->return_key),
					   ((amqp_basic_return_t *) method->decoded)->routing_key);
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
			describe_close(error, "publish", method);
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
	strlcpy(event->text, connection->return_key, sizeof(event->text));
}
