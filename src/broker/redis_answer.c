/*-------------------------------------------------------------------------
 *
 * redis_answer.c
 *	  What follows from a Redis server's replies to batches.
 *
 * If the server does not execute a batch, for lack of memory for instance, the
 * batches behind it have no effect either (redis_scripts.h).  The batch and
 * all batches behind it are sent again when the server accepts the batch.
 * Meanwhile the owner of the connection is asked to send nothing (BLOCKED).  A
 * direct batch that was not executed is sent again by the script, at once.
 *
 * If replicas have to have the messages, the last reply to each batch is the
 * number of replicas that have them (WAIT).  While there are too few, batches
 * that were executed are not confirmed, and the owner is asked to send
 * nothing; empty batches count again, until there are enough.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/timestamp.h"

#include "base/timing.h"
#include "broker/failure.h"
#include "broker/redis.h"

static bool is_count(const CqrsConnection *connection, const CqrsBatch *batch);
static CqrsRedisRemedy remedy_of(const CqrsBatch *batch);
static bool handle_count(CqrsConnection *connection, CqrsBatch *batch,
						 const CqrsReply *reply, CqrsFailure *failure);
static void release(CqrsConnection *connection);
static void drop_renewal(CqrsConnection *connection);
static void free_oldest(CqrsConnection *connection);
static int	unanswered(CqrsConnection *connection);
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

bool
cqrs_redis_handle_reply(CqrsConnection *connection, const CqrsReply *reply,
						CqrsFailure *failure)
{
	CqrsBatch  *batch = cqrs_redis_batch_of(connection, connection->awaited);
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
	if (is_count(connection, batch))
		return handle_count(connection, batch, reply, failure);
	if (!cqrs_redis_batch_answer(batch, reply))
	{
		unexpected(connection, reply, failure);
		return false;
	}
	if (!cqrs_redis_batch_is_answered(batch))
		return true;
	remedy = remedy_of(batch);
	if (remedy != CQRS_REMEDY_NONE)
	{
		send_again(connection, remedy, batch->error);
		return true;
	}
	if (batch->error[0] != '\0' && !batch->stopped)
	{
		/* Also if too few replicas keep all batches from being reported. */
		cqrs_redis_fail(failure, false, "could not publish", batch->error);
		return false;
	}
	if (batch->right_tail[0] != '\0')
		strlcpy(connection->text.tail, batch->right_tail,
				sizeof(connection->text.tail));
	cqrs_redis_route_learn(&connection->route, batch);
	connection->flow = CQRS_FLOW_OPEN;
	connection->by_text = false;
	if (connection->owner.replicas == 0)
		release(connection);
	return true;
}

/* Whether the next reply to a batch is the number of replicas that have it. */
static bool
is_count(const CqrsConnection *connection, const CqrsBatch *batch)
{
	return connection->owner.replicas > 0 &&
		batch->replied == batch->ncommands - 1;
}

/* No error of a direct batch is final. */
static CqrsRedisRemedy
remedy_of(const CqrsBatch *batch)
{
	CqrsRedisRemedy remedy = cqrs_redis_remedy(batch->error);

	if (batch->done > 0 || batch->error[0] == '\0')
		return CQRS_REMEDY_NONE;
	return remedy == CQRS_REMEDY_NONE && batch->direct ?
		CQRS_REMEDY_TEXT : remedy;
}

/* Note the number of replicas that have everything sent so far. */
static bool
handle_count(CqrsConnection *connection, CqrsBatch *batch,
			 const CqrsReply *reply, CqrsFailure *failure)
{
	char		error[256];

	if (reply->type == CQRS_REPLY_ERROR)
	{
		cqrs_failure_quote(error, sizeof(error), reply->text, reply->length);
		cqrs_redis_fail(failure, false, "could not count the replicas", error);
		return false;
	}
	if (reply->type != CQRS_REPLY_INTEGER)
	{
		unexpected(connection, reply, failure);
		return false;
	}
	batch->replied++;
	if (reply->integer >= connection->owner.replicas)
	{
		release(connection);
		return true;
	}
	connection->awaited++;
	if (batch->count == 0)
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
	CqrsBatch  *renewal = cqrs_redis_batch_of(connection, connection->awaited - 1);

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
		cqrs_redis_batch_begin(cqrs_redis_batch_of(connection, connection->filling),
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
		if (batch_event(connection, cqrs_redis_batch_of(connection, connection->oldest),
						event, failure))
			return true;
		free_oldest(connection);
	}
	return false;
}

/* Replies that are due for what is sent or being sent. */
static int
unanswered(CqrsConnection *connection)
{
	uint64		end = connection->sending + (connection->started ? 1 : 0);
	int			result = 0;

	for (uint64 n = connection->awaited; n < end; n++)
	{
		const CqrsBatch *batch = cqrs_redis_batch_of(connection, n);

		result += batch->ncommands - batch->replied;
	}
	return result;
}

/* Whether a command has been sent completely, and its reply is awaited. */
static bool
has_sent_unanswered(CqrsConnection *connection)
{
	const CqrsBatch *batch = cqrs_redis_batch_of(connection,
												 connection->sending);
	int			sent = connection->started ? cqrs_redis_batch_sent(batch) : 0;

	if (connection->ignored > 0)
		return connection->ignored >
			(connection->started ? batch->ncommands - sent : 0);
	if (connection->awaited < connection->sending)
		return true;
	return connection->started && batch->replied < sent;
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
		cqrs_failure_quote(error, sizeof(error), reply->text, reply->length);
		cqrs_redis_fail(failure, false, "could not publish", error);
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
	int64		delay_ms = remedy == CQRS_REMEDY_WAIT ? CQRS_REDIS_RETRY_MS : 0;

	connection->ignored = unanswered(connection);
	connection->flow = CQRS_FLOW_DRAIN;
	connection->by_text = true;
	connection->route.queue[0] = '\0';
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
		if (batch->outcomes[i] == CQRS_BATCH_OUTCOME_UNROUTABLE)
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
	return batch->outcomes[message] == CQRS_BATCH_OUTCOME_REFUSED;
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

/* The script had to stop at a message. */
static void
stopped(CqrsConnection *connection, const CqrsBatch *batch, CqrsEvent *event,
		CqrsFailure *failure)
{
	cqrs_redis_fail(failure, true, "could not publish", batch->error);
	event->kind = CQRS_EVENT_FAILED;
	if (batch->probe && failure->blame == CQRS_BLAME_ROUTE)
	{
		event->kind = CQRS_EVENT_REFUSED;
		connection->probing = false;
	}
}
