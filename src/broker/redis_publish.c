/*-------------------------------------------------------------------------
 *
 * redis_publish.c
 *	  Messages to a Redis server, in batches.
 *
 * A batch is what publish() has been given until the socket has room, and is
 * one request (redis_batch.c).  Several are in flight.  Each has a number, and
 * the server executes them in sequence or not at all (redis_scripts.h).  So if
 * the server does not execute one, for lack of memory for instance, those
 * behind it have no effect either, and all of them are sent again from that
 * one on, when the server takes it.  Meanwhile the owner of the connection is
 * asked to send nothing (BLOCKED).
 *
 * An empty batch renews the lease when nothing else has done so.
 *
 * If replicas have to have the messages, each batch has a second command, which
 * counts them (WAIT).  While there are too few, batches that were executed are
 * not confirmed, and the owner is asked to send nothing; empty batches count
 * again, until there are enough.
 *
 * A batch keeps its place until all its events have been returned.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/timestamp.h"

#include "base/timing.h"
#include "broker/failure.h"
#include "broker/redis.h"

/* The most writes in one flush. */
#define FLUSH_WRITES	64
/* How long to wait before a batch is sent again. */
#define RETRY_MS		1000
/* A lease is renewed after this part of its time to live. */
#define RENEWALS		4

static CqrsBatch *batch_of(CqrsConnection *connection, uint64 number);
static void fill_next(CqrsConnection *connection);
static bool may_start(CqrsConnection *connection);
static bool is_renewal_due(const CqrsConnection *connection);
static void start_batch(CqrsConnection *connection);
static const char *next_output(CqrsConnection *connection, Size *length);
static void output_sent(CqrsConnection *connection, Size length);
static bool handle_count(CqrsConnection *connection, const CqrsReply *reply,
						 CqrsFailure *failure);
static void release(CqrsConnection *connection);
static void drop_renewal(CqrsConnection *connection);
static void free_oldest(CqrsConnection *connection);
static int	replies(const CqrsConnection *connection);
static int	unanswered(const CqrsConnection *connection);
static bool has_sent_unanswered(CqrsConnection *connection);
static void unexpected(CqrsConnection *connection, const CqrsReply *reply,
					   CqrsFailure *failure);
static void send_again(CqrsConnection *connection, CqrsRedisRemedy remedy,
					   const char *error);
static void go_back(CqrsConnection *connection);
static bool batch_event(CqrsConnection *connection, CqrsBatch *batch,
						CqrsEvent *event, CqrsFailure *failure);
static bool is_refused(const CqrsBatch *batch, int message);
static void settle(CqrsConnection *connection, CqrsBatch *batch, int end,
				   CqrsEvent *event);
static void stopped(CqrsConnection *connection, const CqrsBatch *batch,
					CqrsEvent *event, CqrsFailure *failure);

void
cqrs_redis_init_batches(CqrsConnection *connection)
{
	connection->oldest = connection->released = connection->awaited = 1;
	connection->sending = connection->filling = 1;
	connection->started_at = GetCurrentTimestamp();
	cqrs_redis_batch_begin(batch_of(connection, 1), 1);
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
			cqrs_redis_batch_has_room(batch_of(connection, connection->filling)))
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
	CqrsBatch  *batch = batch_of(connection, connection->filling);

	if (batch->count > 0 && strcmp(batch->exchange, envelope->exchange) != 0)
	{
		fill_next(connection);
		batch = batch_of(connection, connection->filling);
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

	if (batch_of(connection, connection->filling)->count > 0)
		fill_next(connection);
	batch = batch_of(connection, connection->filling);
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

bool
cqrs_redis_handle_reply(CqrsConnection *connection, const CqrsReply *reply,
						CqrsFailure *failure)
{
	CqrsBatch  *batch = batch_of(connection, connection->awaited);
	CqrsRedisRemedy remedy;

	if (!has_sent_unanswered(connection))
	{
		unexpected(connection, reply, failure);
		return false;
	}
	if (connection->ignored > 0)
	{
		connection->ignored--;
		go_back(connection);
		return true;
	}
	if (connection->counts)
		return handle_count(connection, reply, failure);
	if (!cqrs_redis_batch_answer(batch, reply))
	{
		unexpected(connection, reply, failure);
		return false;
	}
	remedy = batch->done > 0 ? CQRS_REMEDY_NONE :
		cqrs_redis_remedy(batch->error);
	if (remedy != CQRS_REMEDY_NONE)
	{
		send_again(connection, remedy, batch->error);
		return true;
	}
	if (batch->right_tail[0] != '\0')
		strlcpy(connection->text.tail, batch->right_tail,
				sizeof(connection->text.tail));
	connection->flow = CQRS_FLOW_OPEN;
	connection->by_text = false;
	connection->counts = connection->owner.replicas > 0;
	if (!connection->counts)
		release(connection);
	return true;
}

/* Note how many replicas have all that was sent so far. */
static bool
handle_count(CqrsConnection *connection, const CqrsReply *reply,
			 CqrsFailure *failure)
{
	char		error[256];

	if (reply->type == CQRS_REPLY_ERROR)
	{
		cqrs_failure_clean(error, sizeof(error), reply->text, reply->length);
		cqrs_redis_fail(failure, false, "count the replicas", error);
		return false;
	}
	if (reply->type != CQRS_REPLY_INTEGER)
	{
		unexpected(connection, reply, failure);
		return false;
	}
	connection->counts = false;
	if (reply->integer >= connection->owner.replicas)
	{
		release(connection);
		return true;
	}
	connection->awaited++;
	if (batch_of(connection, connection->awaited - 1)->count == 0)
		drop_renewal(connection);
	if (!connection->blocked)
	{
		connection->blocked = true;
		(void) snprintf(connection->reason, sizeof(connection->reason),
						INT64_FORMAT " replicas of the broker have the messages, less than the %d of cqrs.confirm_replicas",
						reply->integer, connection->owner.replicas);
	}
	return true;
}

/* The batch that was awaited, and all before it, can be reported. */
static void
release(CqrsConnection *connection)
{
	connection->awaited++;
	connection->released = connection->awaited;
	connection->unblocked = connection->blocked;
}

/*
 * Free the place of the batch that was answered last, which has no message, and
 * is behind some that are not released.
 */
static void
drop_renewal(CqrsConnection *connection)
{
	CqrsBatch  *renewal = batch_of(connection, connection->awaited - 1);

	for (uint64 n = connection->awaited - 1; n > connection->oldest; n--)
		connection->batches[n % CQRS_REDIS_BATCHES] =
			connection->batches[(n - 1) % CQRS_REDIS_BATCHES];
	connection->batches[connection->oldest % CQRS_REDIS_BATCHES] = renewal;
	connection->released++;
	free_oldest(connection);
}

/* All events of the oldest batch have been returned. */
static void
free_oldest(CqrsConnection *connection)
{
	connection->oldest++;
	/* All places were taken. */
	if (connection->filling + 1 == connection->oldest + CQRS_REDIS_BATCHES)
		cqrs_redis_batch_begin(batch_of(connection, connection->filling),
							   connection->published + 1);
}

bool
cqrs_redis_next_event(CqrsConnection *connection, CqrsEvent *event,
					  CqrsFailure *failure)
{
	if (connection->reason[0] != '\0')
	{
		event->kind = CQRS_EVENT_BLOCKED;
		strlcpy(event->detail, connection->reason, sizeof(event->detail));
		connection->reason[0] = '\0';
		return true;
	}
	if (connection->unblocked)
	{
		event->kind = CQRS_EVENT_UNBLOCKED;
		connection->blocked = connection->unblocked = false;
		return true;
	}
	if (connection->declared)
	{
		event->kind = CQRS_EVENT_DECLARED;
		connection->declared = false;
		return true;
	}
	while (connection->oldest < connection->released)
	{
		if (batch_event(connection, batch_of(connection, connection->oldest),
						event, failure))
			return true;
		free_oldest(connection);
	}
	return false;
}

long
cqrs_redis_due_ms(const CqrsConnection *connection)
{
	if (connection->flow == CQRS_FLOW_WAIT)
		return cqrs_until_ms(connection->retry_at);
	if (cqrs_redis_awaits(connection))
		return -1;
	return cqrs_until_after_ms(connection->started_at,
							   connection->released < connection->awaited ?
							   connection->owner.replicas_ms :
							   connection->owner.lease_ms / RENEWALS);
}

/* How many replies a batch has. */
static int
replies(const CqrsConnection *connection)
{
	return connection->owner.replicas > 0 ? 2 : 1;
}

/* How many batches are sent or being sent, and not answered completely. */
static int
unanswered(const CqrsConnection *connection)
{
	return connection->sending - connection->awaited +
		(connection->started ? 1 : 0);
}

/* The place of a batch. */
static CqrsBatch *
batch_of(CqrsConnection *connection, uint64 number)
{
	CqrsBatch **place = &connection->batches[number % CQRS_REDIS_BATCHES];

	if (*place == NULL)
		*place = cqrs_redis_batch_create(connection->context);
	return *place;
}

/*
 * Have messages added to the next batch.  If its place is still taken, that is
 * begun when the place is free.
 */
static void
fill_next(CqrsConnection *connection)
{
	connection->filling++;
	if (connection->filling < connection->oldest + CQRS_REDIS_BATCHES)
		cqrs_redis_batch_begin(batch_of(connection, connection->filling),
						 connection->published + 1);
}

/* Whether a batch is to be sent now. */
static bool
may_start(CqrsConnection *connection)
{
	if (connection->flow == CQRS_FLOW_WAIT)
		return cqrs_until_ms(connection->retry_at) == 0;
	if (connection->flow != CQRS_FLOW_OPEN)
		return false;
	if (connection->sending < connection->filling)
		return true;
	if (connection->filling >= connection->oldest + CQRS_REDIS_BATCHES)
		return false;
	return batch_of(connection, connection->filling)->count > 0 ||
		is_renewal_due(connection);
}

static bool
is_renewal_due(const CqrsConnection *connection)
{
	return !cqrs_redis_awaits(connection) &&
		cqrs_redis_due_ms(connection) == 0;
}

static void
start_batch(CqrsConnection *connection)
{
	CqrsBatch  *batch = batch_of(connection, connection->sending);

	if (connection->sending == connection->filling)
		fill_next(connection);
	if (connection->flow == CQRS_FLOW_WAIT)
		connection->flow = CQRS_FLOW_RETRY;
	cqrs_redis_batch_seal(batch, &connection->owner, connection->sending,
					connection->by_text);
	connection->started = true;
	connection->started_at = GetCurrentTimestamp();
}

/* What is to be written next; NULL: nothing. */
static const char *
next_output(CqrsConnection *connection, Size *length)
{
	if (connection->started)
		return cqrs_redis_batch_next(batch_of(connection, connection->sending),
							   connection->chunk, length);
	*length = connection->command.len - connection->command_sent;
	return *length > 0 ?
		connection->command.data + connection->command_sent : NULL;
}

static void
output_sent(CqrsConnection *connection, Size length)
{
	if (connection->started)
	{
		CqrsBatch  *batch = batch_of(connection, connection->sending);
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

/* Whether a batch has been sent completely, and its reply is awaited. */
static bool
has_sent_unanswered(CqrsConnection *connection)
{
	int			unsent = 0;

	if (connection->started)
		unsent = replies(connection) -
			(cqrs_redis_batch_script_sent(batch_of(connection,
												   connection->sending)) ? 1 : 0);
	if (connection->ignored > 0)
		return connection->ignored > unsent;
	return replies(connection) * unanswered(connection) -
		(connection->counts ? 1 : 0) > unsent;
}

/*
 * A reply that answers no request.  While a batch is being sent, the server
 * may say that it cannot read the batch, before it closes the connection.
 */
static void
unexpected(CqrsConnection *connection, const CqrsReply *reply,
		   CqrsFailure *failure)
{
	char		error[256];

	if (connection->started && reply->type == CQRS_REPLY_ERROR)
	{
		cqrs_failure_clean(error, sizeof(error), reply->text, reply->length);
		cqrs_redis_fail(failure, false, "publish", error);
	}
	else
		cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
						 "could not publish: protocol violation by the broker: unexpected reply");
}

/* Send again from the batch that is awaited on, once the others are answered. */
static void
send_again(CqrsConnection *connection, CqrsRedisRemedy remedy,
		   const char *error)
{
	int64		delay_ms = remedy == CQRS_REMEDY_WAIT ? RETRY_MS : 0;

	connection->ignored = replies(connection) * unanswered(connection) - 1;
	connection->flow = CQRS_FLOW_DRAIN;
	connection->by_text = true;
	connection->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   delay_ms);
	if (remedy == CQRS_REMEDY_WAIT && !connection->blocked)
	{
		connection->blocked = true;
		strlcpy(connection->reason, error, sizeof(connection->reason));
	}
	go_back(connection);
}

/* After the last reply to ignore, the batch that is awaited is sent next. */
static void
go_back(CqrsConnection *connection)
{
	if (connection->ignored > 0)
		return;
	connection->sending = connection->awaited;
	connection->flow = CQRS_FLOW_WAIT;
}

/* The next event of a batch that is answered; false: there is none left. */
static bool
batch_event(CqrsConnection *connection, CqrsBatch *batch, CqrsEvent *event,
			CqrsFailure *failure)
{
	while (batch->told < batch->done)
	{
		int			i = batch->told;

		if (i > batch->settled && is_refused(batch, i) != is_refused(batch, i - 1))
		{
			settle(connection, batch, i, event);
			return true;
		}
		batch->told++;
		if (batch->outcomes[i] == CQRS_OUTCOME_UNROUTABLE)
		{
			event->kind = CQRS_EVENT_RETURNED;
			event->probe = batch->probe;
			(void) snprintf(event->detail, sizeof(event->detail), "%.*s",
							(int) batch->id_lengths[i],
							batch->data + batch->ids[i]);
			return true;
		}
	}
	if (batch->settled < batch->done)
	{
		settle(connection, batch, batch->done, event);
		return true;
	}
	if (batch->error[0] == '\0')
		return false;
	stopped(connection, batch, event, failure);
	batch->error[0] = '\0';
	return true;
}

static bool
is_refused(const CqrsBatch *batch, int message)
{
	return batch->outcomes[message] == CQRS_OUTCOME_REFUSED;
}

/* Confirm or refuse the messages up to "end", whose outcome is the same. */
static void
settle(CqrsConnection *connection, CqrsBatch *batch, int end, CqrsEvent *event)
{
	event->kind = CQRS_EVENT_ACK;
	if (is_refused(batch, end - 1))
	{
		event->kind = CQRS_EVENT_NACK;
		(void) snprintf(event->detail, sizeof(event->detail),
						"queue \"%.*s\" has reached cqrs.queue_limit",
						pg_mbcliplen(batch->full, strlen(batch->full), 200),
						batch->full);
	}
	event->probe = batch->probe;
	event->tag = batch->first_tag + end - 1;
	event->multiple = true;
	batch->settled = end;
	if (batch->probe)
		connection->probing = false;
}

/* The script had to stop at a message, or was refused. */
static void
stopped(CqrsConnection *connection, const CqrsBatch *batch, CqrsEvent *event,
		CqrsFailure *failure)
{
	cqrs_redis_fail(failure, batch->stopped, "publish", batch->error);
	event->kind = CQRS_EVENT_FAILED;
	if (batch->probe && failure->blame == CQRS_BLAME_ROUTE)
	{
		event->kind = CQRS_EVENT_REFUSED;
		connection->probing = false;
	}
}
