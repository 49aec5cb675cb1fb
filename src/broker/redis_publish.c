/*-------------------------------------------------------------------------
 *
 * redis_publish.c
 *	  Messages to a Redis server, in batches.
 *
 * A batch has the messages that publish() was given until the socket had room,
 * and is one request (redis_request.c).  Several batches are in flight.  Each
 * has a number, and the server executes them in sequence or not at all
 * (redis_scripts.h).  redis_answer.c handles the replies.
 *
 * An empty batch renews the lease when nothing else has done so.
 *
 * A batch keeps its place until all its events have been returned.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "base/timing.h"
#include "broker/redis.h"

/* The most writes in one flush. */
#define FLUSH_WRITES	64
/* A lease is renewed after this part of its time to live. */
#define RENEWALS		4

static void fill_next(CqrsConnection *connection);
static bool may_start(CqrsConnection *connection);
static bool is_renewal_due(const CqrsConnection *connection);
static void start_batch(CqrsConnection *connection);
static const char *next_output(CqrsConnection *connection, Size *length);
static void output_sent(CqrsConnection *connection, Size length);

void
cqrs_redis_init_batches(CqrsConnection *connection)
{
	connection->oldest = connection->released = connection->awaited = 1;
	connection->sending = connection->filling = 1;
	connection->started_at = GetCurrentTimestamp();
	cqrs_redis_batch_begin(cqrs_redis_batch_of(connection, 1), 1);
}

/*
 * A message of another exchange, and a probe, begin a batch of their own; so
 * another one has to be free.  If replicas are counted, a place is kept for the
 * empty batches that count again: while there are too few, none gets free.
 */
bool
cqrs_redis_can_publish(CqrsConnection *connection)
{
	int			needed = connection->owner.replicas > 0 ? 2 : 1;

	for (int i = 0; i < 2; i++)
	{
		if (connection->filling + needed <
			connection->oldest + CQRS_REDIS_BATCHES &&
			cqrs_redis_batch_has_room(cqrs_redis_batch_of(connection, connection->filling)))
			return true;
		/* If this fails, poll() is going to notice. */
		if (i == 0 && !cqrs_redis_flush(connection, false))
			return false;
	}
	return false;
}

void
cqrs_redis_publish(CqrsConnection *connection, const CqrsEnvelope *envelope)
{
	CqrsBatch  *batch = cqrs_redis_batch_of(connection, connection->filling);

	if (batch->count > 0 && strcmp(batch->exchange, envelope->exchange) != 0)
	{
		fill_next(connection);
		batch = cqrs_redis_batch_of(connection, connection->filling);
	}
	cqrs_redis_batch_add(batch, envelope, &connection->text);
	connection->published++;
}

bool
cqrs_redis_can_probe(CqrsConnection *connection)
{
	return !connection->probing;
}

/* Redis has no exchanges; a set of bindings that is missing is empty. */
void
cqrs_redis_declare(CqrsConnection *connection, const char *exchange)
{
	connection->probing = connection->declared = true;
}

void
cqrs_redis_probe(CqrsConnection *connection, const CqrsEnvelope *envelope)
{
	CqrsBatch  *batch;

	if (cqrs_redis_batch_of(connection, connection->filling)->count > 0)
		fill_next(connection);
	batch = cqrs_redis_batch_of(connection, connection->filling);
	batch->probe = true;
	cqrs_redis_batch_add(batch, envelope, &connection->text);
	fill_next(connection);
}

bool
cqrs_redis_flush(CqrsConnection *connection, bool commands_only)
{
	for (int i = 0; i < FLUSH_WRITES; i++)
	{
		Size		length;
		ssize_t		written;
		const char *data;

		if (!connection->started && !commands_only &&
			connection->command.len == 0 && may_start(connection))
			start_batch(connection);
		data = next_output(connection, &length);
		if (data == NULL)
			return true;
		written = cqrs_socket_write(connection->sock, data, length);
		if (written < 0)
			return false;
		if (written == 0)
			return true;
		output_sent(connection, written);
	}
	return true;
}

bool
cqrs_redis_pending(CqrsConnection *connection)
{
	return connection->started || connection->command.len > 0 ||
		may_start(connection);
}

bool
cqrs_redis_awaits(const CqrsConnection *connection)
{
	return connection->ignored > 0 ||
		connection->awaited < connection->sending || connection->started;
}

long
cqrs_redis_due_ms(const CqrsConnection *connection)
{
	if (connection->flow == CQRS_FLOW_WAIT)
		return cqrs_until_within_ms(connection->retry_at, CQRS_REDIS_RETRY_MS);
	if (cqrs_redis_awaits(connection))
		return -1;
	return cqrs_until_after_ms(connection->started_at,
							   connection->released < connection->awaited ?
							   connection->owner.replicas_ms :
							   connection->owner.lease_ms / RENEWALS);
}

CqrsBatch *
cqrs_redis_batch_of(CqrsConnection *connection, uint64 number)
{
	CqrsBatch **place = &connection->batches[number % CQRS_REDIS_BATCHES];

	if (*place == NULL)
		*place = cqrs_redis_batch_create(connection->context);
	return *place;
}

/*
 * Have messages added to the next batch.  If the place of that batch is still
 * taken, the batch is begun when the place is free.
 */
static void
fill_next(CqrsConnection *connection)
{
	connection->filling++;
	if (connection->filling < connection->oldest + CQRS_REDIS_BATCHES)
		cqrs_redis_batch_begin(cqrs_redis_batch_of(connection, connection->filling),
							   connection->published + 1);
}

/* Whether a batch is to be sent now. */
static bool
may_start(CqrsConnection *connection)
{
	if (connection->flow == CQRS_FLOW_WAIT)
		return cqrs_until_within_ms(connection->retry_at, CQRS_REDIS_RETRY_MS) == 0;
	if (connection->flow != CQRS_FLOW_OPEN)
		return false;
	if (connection->sending < connection->filling)
		return true;
	if (connection->filling >= connection->oldest + CQRS_REDIS_BATCHES)
		return false;
	return cqrs_redis_batch_of(connection, connection->filling)->count > 0 ||
		is_renewal_due(connection);
}

/*
 * Whether an empty batch is to be sent, for the lease or to hear of replicas.
 */
static bool
is_renewal_due(const CqrsConnection *connection)
{
	return !cqrs_redis_awaits(connection) &&
		cqrs_redis_due_ms(connection) == 0;
}

/* Begin to send the next batch, to which nothing is added then. */
static void
start_batch(CqrsConnection *connection)
{
	CqrsBatch  *batch = cqrs_redis_batch_of(connection, connection->sending);

	if (connection->sending == connection->filling)
		fill_next(connection);
	if (connection->flow == CQRS_FLOW_WAIT)
		connection->flow = CQRS_FLOW_RETRY;
	cqrs_redis_batch_seal(batch, &connection->owner, &connection->route,
						  connection->sending, connection->by_text);
	connection->started = true;
	connection->started_at = GetCurrentTimestamp();
}

/* What is to be written next; NULL: nothing. */
static const char *
next_output(CqrsConnection *connection, Size *length)
{
	if (connection->started)
		return cqrs_redis_batch_next(cqrs_redis_batch_of(connection, connection->sending),
									 connection->chunk, length);
	*length = connection->command.len - connection->command_sent;
	return *length > 0 ?
		connection->command.data + connection->command_sent : NULL;
}

/* The socket has taken "length" bytes of what next_output() returned. */
static void
output_sent(CqrsConnection *connection, Size length)
{
	if (connection->started)
	{
		CqrsBatch  *batch = cqrs_redis_batch_of(connection, connection->sending);
		Size		rest;

		cqrs_redis_batch_advance(batch, length);
		if (cqrs_redis_batch_next(batch, connection->chunk, &rest) == NULL)
		{
			connection->started = false;
			connection->sending++;
		}
		return;
	}
	connection->command_sent += length;
	if (connection->command_sent == connection->command.len)
	{
		/* It may contain a password. */
		explicit_bzero(connection->command.data, connection->command.len);
		resetStringInfo(&connection->command);
		connection->command_sent = 0;
	}
}
