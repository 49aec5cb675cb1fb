/*-------------------------------------------------------------------------
 *
 * redis.c
 *	  The transport to a Redis server, by the scheme of Kombu.
 *
 * An exchange is a set of bindings, and a queue is a list, to whose left end
 * messages are pushed.  Kombu's publishers read the bindings and push; here a
 * script in the server does both, and returns the number of queues of each
 * message, which is the confirm (redis_scripts.h).
 *
 * Sending never waits: what the socket does not take stays in the batches
 * (redis_publish.c).  A server that owes a reply and has sent nothing for two
 * heartbeat intervals is considered dead.  It always owes one, since the lease
 * is renewed.
 *
 * The server is not trusted.  A reply ends the connection, with a reason, if
 * it is malformed or too large (redis_reply.c), or answers no request.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/timing.h"
#include "broker/failure.h"
#include "broker/redis.h"

/*
 * A string in Redis has at most 512 MB, unless the server is configured
 * otherwise.  A body is a string in Base64 with its envelope.
 */
#define MAX_BODY_BYTES		(384 * 1024 * 1024 - 8192)
/* The largest reply to a publisher. */
#define MAX_REPLY_BYTES		(256 * 1024)
/* The most that a reply to a consumer has besides its largest message. */
#define MAX_DELIVERED_BYTES (4 * 1024 * 1024)
/* The most replies without an event that one poll() handles. */
#define POLL_REPLIES		16

static CqrsConnection *redis_connect(const CqrsConnectOptions *options,
									 CqrsFailure *failure);
static void redis_poll(CqrsConnection *connection, CqrsEvent *event,
					   CqrsFailure *failure);
static pgsocket redis_socket(CqrsConnection *connection, bool *write);
static long redis_wait_ms(CqrsConnection *connection);
static void redis_close(CqrsConnection *connection, bool politely);
static CqrsConnection *open_connection(const CqrsConnectOptions *options,
									   CqrsFailure *failure);
static bool next_event(CqrsConnection *connection, CqrsEvent *event,
					   CqrsFailure *failure);
static bool handle_reply(CqrsConnection *connection, const CqrsReply *reply,
						 CqrsFailure *failure);
static bool awaits(const CqrsConnection *connection);
static bool hears_server(const CqrsConnection *connection,
						 CqrsFailure *failure);

const CqrsTransport cqrs_transport_redis = {
	.scheme = "redis",
	.tls_scheme = "rediss",
	/* As in Redis's clients. */
	.defaults = {
		.user = "default",.host = "localhost",.port = 6379,.path = "0"
	},
	.tls_port = 6379,
	.max_body = MAX_BODY_BYTES,
	.connect = redis_connect,
	.advice = cqrs_redis_advice,
	.can_publish = cqrs_redis_can_publish,
	.publish = cqrs_redis_publish,
	.can_probe = cqrs_redis_can_probe,
	.declare = cqrs_redis_declare,
	.probe = cqrs_redis_probe,
	.prepare_queue = cqrs_redis_prepare_queue,
	.unbind = cqrs_redis_unbind,
	.delete_queue = cqrs_redis_delete_queue,
	.subscribe = cqrs_redis_subscribe,
	.unsubscribe = cqrs_redis_unsubscribe,
	.acknowledge = cqrs_redis_acknowledge,
	.read_mark = cqrs_redis_read_mark,
	.write_mark = cqrs_redis_write_mark,
	.poll = redis_poll,
	.socket = redis_socket,
	.wait_ms = redis_wait_ms,
	.close = redis_close
};

static CqrsConnection *
redis_connect(const CqrsConnectOptions *options, CqrsFailure *failure)
{
	CqrsConnection *connection = open_connection(options, failure);

	if (connection != NULL && !cqrs_redis_log_in(connection, options, failure))
	{
		redis_close(connection, false);
		return NULL;
	}
	return connection;
}

/* A connection on which nothing has been sent; NULL on failure. */
static CqrsConnection *
open_connection(const CqrsConnectOptions *options, CqrsFailure *failure)
{
	CqrsUrl		url = cqrs_transport_complete(&cqrs_transport_redis, options->url);
	bool		tls = strcmp(url.scheme, cqrs_transport_redis.tls_scheme) == 0;
	CqrsConnection *connection;
	CqrsSocket *sock;
	MemoryContext context;
	MemoryContext caller;
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
	connection->sock = sock;
	connection->reader =
		cqrs_redis_reply_create(context, sock, MAX_REPLY_BYTES +
								(options->consumes ?
								 MAX_DELIVERED_BYTES + options->max_delivery / 3 * 4 : 0));
	connection->heartbeat_s = options->heartbeat_s;
	connection->timeout_ms = options->connect_timeout_ms;
	caller = MemoryContextSwitchTo(context);
	initStringInfo(&connection->text.common);
	initStringInfo(&connection->text.own);
	initStringInfo(&connection->command);
	cqrs_redis_init_batches(connection);
	cqrs_redis_init_consumer(connection, options);
	MemoryContextSwitchTo(caller);
	return connection;
}

/*
 * If writing fails, the server may have said why before it closed the
 * connection.
 */
static void
redis_poll(CqrsConnection *connection, CqrsEvent *event, CqrsFailure *failure)
{
	bool		written;
	int			result = 1;

	memset(event, 0, sizeof(*event));
	if (connection->consumes)
		cqrs_redis_ask(connection);
	written = cqrs_redis_flush(connection, connection->consumes);
	connection->more = true;
	for (int i = 0; i < POLL_REPLIES; i++)
	{
		CqrsReply  *reply;

		if (next_event(connection, event, failure))
			return;
		result = cqrs_redis_reply_read(connection->reader, &reply);
		if (result <= 0)
			break;
		if (!handle_reply(connection, reply, failure))
		{
			event->kind = CQRS_EVENT_FAILED;
			return;
		}
	}
	connection->more = result > 0;
	if (result < 0 || (result == 0 && !written))
		cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT, "connection lost: %s",
						 cqrs_redis_reply_error(connection->reader));
	if (result < 0 || (result == 0 && !written) ||
		!hears_server(connection, failure))
		event->kind = CQRS_EVENT_FAILED;
}

/* The next event that has been made of replies; false: there is none. */
static bool
next_event(CqrsConnection *connection, CqrsEvent *event, CqrsFailure *failure)
{
	return connection->consumes ?
		cqrs_redis_next_consumed(connection, event, failure) :
		cqrs_redis_next_event(connection, event, failure);
}

/*
 * Note what a reply says, for next_event().  Returns false, with *failure set,
 * if the connection is of no use any more.
 */
static bool
handle_reply(CqrsConnection *connection, const CqrsReply *reply,
			 CqrsFailure *failure)
{
	return connection->consumes ?
		cqrs_redis_handle_answer(connection, reply, failure) :
		cqrs_redis_handle_reply(connection, reply, failure);
}

/* Whether the server owes a reply. */
static bool
awaits(const CqrsConnection *connection)
{
	return connection->consumes ? cqrs_redis_asks(connection) :
		cqrs_redis_awaits(connection);
}

static pgsocket
redis_socket(CqrsConnection *connection, bool *write)
{
	*write = connection->consumes ? connection->command.len > 0 :
		cqrs_redis_pending(connection);
	return cqrs_socket_fd(connection->sock);
}

static long
redis_wait_ms(CqrsConnection *connection)
{
	long		wait_ms = connection->consumes ?
	cqrs_redis_ask_ms(connection) : cqrs_redis_due_ms(connection);

	if (connection->more)
		return 0;
	if (connection->heartbeat_s != 0 && awaits(connection))
		wait_ms = cqrs_sooner_ms(wait_ms,
								 cqrs_until_after_ms(cqrs_redis_reply_received_at(connection->reader),
													 2000 * connection->heartbeat_s));
	return wait_ms;
}

static void
redis_close(CqrsConnection *connection, bool politely)
{
	if (politely && connection->consumes)
		cqrs_redis_acknowledge_last(connection);
	cqrs_redis_drop_lease(connection, politely);
	cqrs_redis_reply_destroy(connection->reader);
	cqrs_socket_close(connection->sock);
	MemoryContextDelete(connection->context);
}

/* Returns false if a reply has been awaited for too long. */
static bool
hears_server(const CqrsConnection *connection, CqrsFailure *failure)
{
	if (connection->heartbeat_s == 0 || !awaits(connection) ||
		cqrs_until_after_ms(cqrs_redis_reply_received_at(connection->reader),
							2000 * connection->heartbeat_s) > 0)
		return true;
	cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
					 "connection lost: nothing came from the broker for %d s",
					 2 * connection->heartbeat_s);
	return false;
}
