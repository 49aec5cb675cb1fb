/*-------------------------------------------------------------------------
 *
 * redis_consume.c
 *	  Deliveries of a queue in a Redis server.
 *
 * Kombu takes messages out of the queue, and notes them elsewhere afterwards.
 * A crash in between loses them, and messages that were noted come back later,
 * in another order.  Here messages stay in the queue until they are
 * acknowledged: they are read from the end of the queue, from behind the
 * messages that are held already, and removed by the acknowledgement
 * (redis_scripts.h).  So nothing is lost, and the order stays.  A key of the
 * server counts deliveries, for the mark "redelivered".
 *
 * One question at a time is asked.  If the queue is empty, the server is asked
 * to answer when there is a message, by a command that moves the last message
 * of the list to the place where the message is already.  This answer takes a
 * second at most, so that the lease is renewed and a subscription can end.
 * While deliveries are held, the list is not empty, and the question for more
 * is repeated instead.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "postmaster/interrupt.h"
#include "utils/timestamp.h"

#include "base/timing.h"
#include "broker/failure.h"
#include "broker/redis.h"
#include "broker/redis_envelope.h"
#include "broker/redis_scripts.h"

/* Bytes of messages that one answer has, but at least one message. */
#define ANSWER_BYTES	(1024 * 1024)
/* The most acknowledgements in one question. */
#define MAX_ACKNOWLEDGED	1000
/* How long to wait before more is asked for while deliveries are held. */
#define REPEAT_MS		100
/* Leases are renewed after this part of their time to live. */
#define RENEWALS		4
/* The longest wait for the last acknowledgements. */
#define LAST_MS			1200

static int	room_for(const CqrsConsumer *consumer);
static void ask_subscribe(CqrsConnection *connection);
static void ask_messages(CqrsConnection *connection, int count);
static void ask_wait(CqrsConnection *connection);
static void put_text(CqrsConnection *connection, const char *text);
static void put_number(CqrsConnection *connection, Size number);
static bool is_renewal_due(const CqrsConnection *connection);
static bool answer_error(CqrsConnection *connection, const CqrsReply *reply,
						 CqrsFailure *failure);
static void forget_acknowledged(CqrsConsumer *consumer);
static void take_messages(CqrsConnection *connection, const CqrsReply *reply);
static bool take_message(CqrsConnection *connection, const CqrsReply *message);
static void refuse(CqrsConsumer *consumer, const char *reason);
static Size largest_envelope(const CqrsConsumer *consumer);

void
cqrs_redis_init_consumer(CqrsConnection *connection,
						 const CqrsConnectOptions *options)
{
	CqrsConsumer *consumer = &connection->consumer;

	connection->consumes = options->consumes;
	consumer->max_delivery = options->max_delivery;
	consumer->deliveries = options->deliveries;
	consumer->asked_at = GetCurrentTimestamp();
	dlist_init(&consumer->held);
	dlist_init(&consumer->ready);
}

/* Deliveries of another queue that are still held cannot be acknowledged. */
void
cqrs_redis_subscribe(CqrsConnection *connection, const char *queue, int window)
{
	CqrsConsumer *consumer = &connection->consumer;
	MemoryContext context = connection->context;

	if (consumer->queue == NULL || strcmp(consumer->queue, queue) != 0)
	{
		consumer->queue = MemoryContextStrdup(context, queue);
		consumer->queue_lease =
			MemoryContextStrdup(context, psprintf("%s%s", CQRS_REDIS_CONSUMER,
												  queue));
		consumer->delivered =
			MemoryContextStrdup(context, psprintf("%s%s", CQRS_REDIS_DELIVERED,
												  queue));
	}
	consumer->window = window;
	consumer->tag_before = consumer->last_tag;
	consumer->begins = true;
	consumer->ask_at = 0;
}

void
cqrs_redis_unsubscribe(CqrsConnection *connection)
{
	connection->consumer.ends = true;
}

void
cqrs_redis_acknowledge(CqrsConnection *connection, uint64 tag)
{
	CqrsConsumer *consumer = &connection->consumer;
	dlist_iter	iter;

	dlist_foreach(iter, &consumer->held)
	{
		CqrsHeld   *held = dlist_container(CqrsHeld, node, iter.cur);

		if (held->tag > tag)
			break;
		if (!held->acknowledged)
			consumer->nacknowledged++;
		held->acknowledged = true;
	}
	consumer->acknowledged_tag = tag;
	consumer->ask_at = 0;
}

void
cqrs_redis_ask(CqrsConnection *connection)
{
	CqrsConsumer *consumer = &connection->consumer;
	int			room;

	if (consumer->asks != CQRS_ASKS_NOTHING || connection->command.len > 0 ||
		cqrs_until_within_ms(consumer->ask_at, CQRS_REDIS_RETRY_MS) > 0)
		return;
	if (consumer->begins)
	{
		ask_subscribe(connection);
		return;
	}
	if (consumer->queue == NULL)
		return;
	room = room_for(consumer);
	if (consumer->nacknowledged > 0)
		ask_messages(connection, room);
	else if (room > 0 && consumer->may_wait && consumer->nheld == 0)
		ask_wait(connection);
	else if (room > 0 || is_renewal_due(connection))
		ask_messages(connection, room);
}

bool
cqrs_redis_asks(const CqrsConnection *connection)
{
	return connection->consumer.asks != CQRS_ASKS_NOTHING;
}

bool
cqrs_redis_handle_answer(CqrsConnection *connection, const CqrsReply *reply,
						 CqrsFailure *failure)
{
	CqrsConsumer *consumer = &connection->consumer;
	CqrsQuestion question = consumer->asks;

	if (connection->command.len > 0)
	{
		cqrs_redis_too_early(reply, "could not consume", failure);
		return false;
	}
	consumer->asks = CQRS_ASKS_NOTHING;
	if (reply->type == CQRS_REPLY_ERROR)
		return answer_error(connection, reply, failure);
	switch (question)
	{
		case CQRS_ASKS_SUBSCRIBE:
			if (reply->type != CQRS_REPLY_INTEGER || reply->integer < 0)
				break;
			consumer->redelivered = Max(reply->integer - consumer->nheld, 0);
			consumer->begins = consumer->may_wait = false;
			consumer->subscribed = consumer->begun = true;
			return true;

		case CQRS_ASKS_MESSAGES:
			if (reply->type != CQRS_REPLY_ARRAY ||
				reply->nelements > consumer->nasked)
				break;
			forget_acknowledged(consumer);
			take_messages(connection, reply);
			return true;

		case CQRS_ASKS_WAIT:
			consumer->may_wait = false;
			return true;

		case CQRS_ASKS_NOTHING:
			break;
	}
	cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
					 "could not consume: protocol violation by the broker: unexpected reply");
	return false;
}

bool
cqrs_redis_next_consumed(CqrsConnection *connection, CqrsEvent *event,
						 CqrsFailure *failure)
{
	CqrsConsumer *consumer = &connection->consumer;

	if (consumer->begun)
	{
		consumer->begun = false;
		event->kind = CQRS_EVENT_SUBSCRIBED;
		return true;
	}
	if (!dlist_is_empty(&consumer->ready))
	{
		CqrsReady  *ready = dlist_container(CqrsReady, node,
											dlist_pop_head_node(&consumer->ready));

		event->kind = CQRS_EVENT_DELIVERY;
		event->delivery = ready->delivery;
		pfree(ready);
		return true;
	}
	if (consumer->failed)
	{
		event->kind = CQRS_EVENT_FAILED;
		*failure = consumer->failure;
		return true;
	}
	if (consumer->ends && consumer->asks == CQRS_ASKS_NOTHING)
	{
		consumer->ends = consumer->subscribed = false;
		event->kind = CQRS_EVENT_CANCELLED;
		return true;
	}
	return false;
}

long
cqrs_redis_ask_ms(const CqrsConnection *connection)
{
	const CqrsConsumer *consumer = &connection->consumer;
	bool		wants = consumer->begins || consumer->nacknowledged > 0 ||
	room_for(consumer) > 0;

	if (consumer->asks != CQRS_ASKS_NOTHING)
		return -1;
	if (wants)
		return cqrs_until_within_ms(consumer->ask_at, CQRS_REDIS_RETRY_MS);
	return consumer->queue == NULL ? -1 :
		Max(cqrs_until_after_ms(consumer->asked_at,
								connection->owner.lease_ms / RENEWALS),
			cqrs_until_within_ms(consumer->ask_at, CQRS_REDIS_RETRY_MS));
}

void
cqrs_redis_acknowledge_last(CqrsConnection *connection)
{
	CqrsConsumer *consumer = &connection->consumer;
	int64		deadline = cqrs_socket_deadline(LAST_MS);

	consumer->ends = true;
	while ((consumer->asks != CQRS_ASKS_NOTHING ||
			consumer->nacknowledged > 0) && cqrs_socket_may_go_on(deadline))
	{
		CqrsReply  *reply;
		CqrsFailure ignored;
		int			result = -1;

		consumer->ask_at = 0;
		cqrs_redis_ask(connection);
		if (cqrs_redis_flush(connection, true))
			result = cqrs_redis_reply_read(connection->reader, &reply);
		if (result < 0 ||
			(result > 0 &&
			 (!cqrs_redis_asks(connection) ||
			  !cqrs_redis_handle_answer(connection, reply, &ignored))))
			return;
		if (result == 0)
			(void) cqrs_socket_wait(connection->sock,
									connection->command.len > 0, deadline);
	}
}

/* How many deliveries the window allows now. */
static int
room_for(const CqrsConsumer *consumer)
{
	uint64		done = Max(consumer->tag_before, consumer->acknowledged_tag);

	/* A process that ends applies nothing more. */
	return consumer->subscribed && !consumer->ends && !ShutdownRequestPending ?
		consumer->window - (int) (consumer->last_tag - done) : 0;
}

/* Ask for the queue, as its only consumer. */
static void
ask_subscribe(CqrsConnection *connection)
{
	CqrsConsumer *consumer = &connection->consumer;

	cqrs_redis_begin_command(connection, 9);
	put_text(connection, "EVAL");
	put_text(connection, CQRS_SCRIPT_SUBSCRIBE);
	put_text(connection, "3");
	put_text(connection, consumer->queue);
	put_text(connection, consumer->queue_lease);
	put_text(connection, consumer->delivered);
	put_text(connection, connection->owner.name);
	put_text(connection, connection->owner.epoch);
	put_number(connection, connection->owner.lease_ms);
	consumer->asks = CQRS_ASKS_SUBSCRIBE;
	consumer->asked_at = GetCurrentTimestamp();
}

/* Acknowledge, and ask for up to "count" messages. */
static void
ask_messages(CqrsConnection *connection, int count)
{
	CqrsConsumer *consumer = &connection->consumer;
	int			acknowledged = Min(consumer->nacknowledged, MAX_ACKNOWLEDGED);
	dlist_iter	iter;

	consumer->nsent = acknowledged;
	consumer->nasked = count;
	cqrs_redis_begin_command(connection, 13 + acknowledged);
	put_text(connection, "EVAL");
	put_text(connection, CQRS_SCRIPT_CONSUME);
	put_text(connection, "4");
	put_text(connection, consumer->queue);
	put_text(connection, consumer->queue_lease);
	put_text(connection, consumer->delivered);
	put_text(connection, connection->owner.lease);
	put_text(connection, connection->owner.token);
	put_number(connection, connection->owner.lease_ms);
	put_number(connection, consumer->nheld);
	put_number(connection, count);
	put_number(connection, ANSWER_BYTES);
	put_number(connection, largest_envelope(consumer));
	dlist_foreach(iter, &consumer->held)
	{
		CqrsHeld   *held = dlist_container(CqrsHeld, node, iter.cur);

		if (acknowledged-- == 0)
			break;
		cqrs_redis_put_word(connection, held->mark, held->length);
	}
	consumer->asks = CQRS_ASKS_MESSAGES;
	consumer->asked_at = GetCurrentTimestamp();
}

/* Ask for an answer as soon as the queue has a message, or in a second. */
static void
ask_wait(CqrsConnection *connection)
{
	CqrsConsumer *consumer = &connection->consumer;

	cqrs_redis_begin_command(connection, 6);
	put_text(connection, "BLMOVE");
	put_text(connection, consumer->queue);
	put_text(connection, consumer->queue);
	put_text(connection, "RIGHT");
	put_text(connection, "RIGHT");
	put_text(connection, "1");
	consumer->asks = CQRS_ASKS_WAIT;
}

static void
put_text(CqrsConnection *connection, const char *text)
{
	cqrs_redis_put_word(connection, text, strlen(text));
}

static void
put_number(CqrsConnection *connection, Size number)
{
	char		text[32];

	snprintf(text, sizeof(text), "%zu", number);
	put_text(connection, text);
}

static bool
is_renewal_due(const CqrsConnection *connection)
{
	return cqrs_until_after_ms(connection->consumer.asked_at,
							   connection->owner.lease_ms / RENEWALS) == 0;
}

/* Some errors pass; then the same question is asked again. */
static bool
answer_error(CqrsConnection *connection, const CqrsReply *reply,
			 CqrsFailure *failure)
{
	CqrsConsumer *consumer = &connection->consumer;
	char		error[256];

	cqrs_failure_quote(error, sizeof(error), reply->text, reply->length);
	if (cqrs_redis_remedy(error) == CQRS_REMEDY_WAIT)
	{
		consumer->ask_at =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), CQRS_REDIS_RETRY_MS);
		/* The move is refused for lack of memory, reading is not. */
		consumer->may_wait = false;
		return true;
	}
	cqrs_redis_fail(failure, true, "could not consume", error);
	return false;
}

/* The acknowledgements of the last question have arrived. */
static void
forget_acknowledged(CqrsConsumer *consumer)
{
	int			count = consumer->nsent;

	for (int i = 0; i < count; i++)
		pfree(dlist_container(CqrsHeld, node,
							  dlist_pop_head_node(&consumer->held)));
	consumer->nheld -= count;
	consumer->nacknowledged -= count;
}

/* The answer to a request for messages.  None is the sign to wait for one. */
static void
take_messages(CqrsConnection *connection, const CqrsReply *reply)
{
	CqrsConsumer *consumer = &connection->consumer;

	consumer->may_wait = reply->nelements == 0;
	if (reply->nelements == 0 && consumer->nheld > 0)
		consumer->ask_at =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), REPEAT_MS);
	for (int i = 0; i < reply->nelements && !consumer->failed; i++)
	{
		if (!take_message(connection, &reply->elements[i]))
			return;
	}
}

/* Make a delivery of a message.  Returns false if that fails. */
static bool
take_message(CqrsConnection *connection, const CqrsReply *message)
{
	CqrsConsumer *consumer = &connection->consumer;
	CqrsDelivery *delivery;
	CqrsHeld   *held;
	CqrsReady  *ready;
	const char *mark;
	Size		length;

	if (message->type != CQRS_REPLY_TEXT)
	{
		refuse(consumer, message->type == CQRS_REPLY_INTEGER ?
			   psprintf("message of " INT64_FORMAT " bytes with its envelope, more than the %zu accepted",
						message->integer, largest_envelope(consumer)) :
			   "protocol violation by the broker: unexpected reply");
		return false;
	}
	delivery = cqrs_redis_envelope_read(consumer->deliveries, message->text,
										message->length, &mark, &length);
	if (delivery == NULL || delivery->length > consumer->max_delivery)
	{
		refuse(consumer, delivery == NULL ? "out of memory" :
			   psprintf("message of %zu bytes, more than the %zu accepted",
						delivery->length, consumer->max_delivery));
		if (delivery != NULL)
			pfree(delivery);
		return false;
	}
	delivery->tag = ++consumer->last_tag;
	delivery->redelivered = consumer->redelivered > 0;
	if (delivery->redelivered)
		consumer->redelivered--;

	held = MemoryContextAlloc(connection->context,
							  offsetof(CqrsHeld, mark) + length);
	held->tag = delivery->tag;
	held->acknowledged = false;
	held->length = length;
	memcpy(held->mark, mark, length);
	dlist_push_tail(&consumer->held, &held->node);
	consumer->nheld++;
	ready = MemoryContextAlloc(connection->context, sizeof(CqrsReady));
	ready->delivery = delivery;
	dlist_push_tail(&consumer->ready, &ready->node);
	return true;
}

/* The next event is FAILED. */
static void
refuse(CqrsConsumer *consumer, const char *reason)
{
	consumer->failed = true;
	cqrs_failure_set(&consumer->failure, CQRS_BLAME_TRANSPORT,
					 "could not consume: %s", reason);
}

/* The largest envelope that can have an acceptable body. */
static Size
largest_envelope(const CqrsConsumer *consumer)
{
	return consumer->max_delivery / 3 * 4 + 64 * 1024;
}
