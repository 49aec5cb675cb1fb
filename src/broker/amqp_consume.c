/*-------------------------------------------------------------------------
 *
 * amqp_consume.c
 *	  The first channel of a connection by AMQP 0-9-1 that consumes.
 *
 * A delivery arrives as a basic.deliver, a header and frames of the body.  Its
 * chunk of memory is allocated when the header is there, and its size is that
 * of the header.  The chunk belongs to the connection until the event is given
 * to poll()'s caller.
 *
 * What is accepted: deliveries of our own subscription, numbered without a gap
 * from 1 on, with bodies up to the limit of the options, and no more of them
 * without acknowledgement than there can be.  After an unsubscribe() the
 * window begins anew, without what is still not acknowledged.  Each
 * subscription has a consumer tag of its own: RabbitMQ gives room in the
 * window of the consumer whose tag an acknowledged message has.
 *
 * An acknowledgement stands for all earlier ones too.  So the last one waits
 * while the output has no room, and takes the place of those before it.
 *
 * The broker's basic.cancel is not answered: RabbitMQ before 4.3 takes an
 * answer for a violation of the protocol.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "broker/amqp.h"
#include "broker/amqp_properties.h"

#define SHORTSTR_SIZE	256

typedef enum Subscription
{
	SUBSCRIPTION_NONE,
	SUBSCRIPTION_BEGINS,		/* consume-ok is awaited */
	SUBSCRIPTION_RUNS,
	SUBSCRIPTION_ENDS			/* cancel-ok is awaited */
} Subscription;

typedef enum Content
{
	CONTENT_NONE,				/* no delivery is arriving */
	CONTENT_HEADER,				/* its header is next */
	CONTENT_BODY				/* its body, or more of it, is next */
} Content;

struct CqrsConsumer
{
	MemoryContext deliveries;
	Size		max_delivery;

	Subscription subscription;
	char		tag[32];		/* of the subscription */
	int			subscribed;		/* subscriptions up to now */
	int			tuning;			/* qos-oks that are awaited */
	bool		cancelled;		/* by the broker, while cancel-ok is awaited */
	uint64		delivered;		/* the last tag */
	uint64		acknowledged;	/* all up to this one */
	uint64		unsent;			/* the acknowledgement that waits for room; 0:
								 * none */
	uint64		most;			/* not acknowledged at a time */

	Content		content;
	bool		redelivered;	/* of the basic.deliver */
	char		routing_key[SHORTSTR_SIZE];
	CqrsDelivery *delivery;		/* while its body arrives */
	Size		body_rest;
};

static void handle_method(CqrsConnection *connection,
						  const amqp_method_t *method, const char *action,
						  CqrsEvent *event, CqrsFailure *failure);
static void handle_cancel(CqrsConsumer *consumer, CqrsEvent *event);
static void end_subscription(CqrsConsumer *consumer, bool by_broker,
							 CqrsEvent *event);
static const char *begin_delivery(CqrsConsumer *consumer,
								  const amqp_basic_deliver_t *deliver);
static void handle_header(CqrsConsumer *consumer, const amqp_frame_t *frame,
						  const char *action, CqrsEvent *event,
						  CqrsFailure *failure);
static CqrsDelivery *make_delivery(const CqrsConsumer *consumer,
								   amqp_bytes_t properties, Size length);
static const char *text_of_id(amqp_bytes_t properties, char *buffer);
static void handle_body(CqrsConsumer *consumer, amqp_bytes_t part,
						const char *action, CqrsEvent *event,
						CqrsFailure *failure);
static void end_delivery(CqrsConsumer *consumer, CqrsEvent *event);
static void handle_close(const amqp_method_t *method, const char *action,
						 CqrsEvent *event, CqrsFailure *failure);
static bool is_ours(const CqrsConsumer *consumer, amqp_bytes_t tag);

void
cqrs_amqp_create_consumer(CqrsConnection *connection,
						  const CqrsConnectOptions *options)
{
	CqrsConsumer *consumer = MemoryContextAllocZero(connection->context,
													sizeof(CqrsConsumer));

	consumer->deliveries = options->deliveries;
	consumer->max_delivery = options->max_delivery;
	connection->consumer = consumer;
}

void
cqrs_amqp_subscribe(CqrsConnection *connection, const char *queue, int window)
{
	CqrsConsumer *consumer = connection->consumer;
	amqp_basic_qos_t qos = {0};
	amqp_basic_consume_t consume = {0};

	Assert(consumer->subscription == SUBSCRIPTION_NONE);
	Assert(window > 0 && window <= PG_UINT16_MAX);
	qos.prefetch_count = window;
	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_CHANNEL,
								AMQP_BASIC_QOS_METHOD, &qos);
	consume.queue = amqp_cstring_bytes(queue);
	snprintf(consumer->tag, sizeof(consumer->tag), "cqrs-%d",
			 ++consumer->subscribed);
	consume.consumer_tag = amqp_cstring_bytes(consumer->tag);
	consume.exclusive = 1;
	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_CHANNEL,
								AMQP_BASIC_CONSUME_METHOD, &consume);
	consumer->subscription = SUBSCRIPTION_BEGINS;
	consumer->tuning++;
	consumer->cancelled = false;
	consumer->most = consumer->delivered - consumer->acknowledged + window;
}

void
cqrs_amqp_unsubscribe(CqrsConnection *connection)
{
	CqrsConsumer *consumer = connection->consumer;
	amqp_basic_cancel_t cancel = {0};

	/* The broker may have ended the subscription, of which poll() tells. */
	if (consumer->subscription == SUBSCRIPTION_NONE)
		return;
	cancel.consumer_tag = amqp_cstring_bytes(consumer->tag);
	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_CHANNEL,
								AMQP_BASIC_CANCEL_METHOD, &cancel);
	consumer->subscription = SUBSCRIPTION_ENDS;
}

void
cqrs_amqp_acknowledge(CqrsConnection *connection, uint64 tag)
{
	CqrsConsumer *consumer = connection->consumer;

	Assert(tag > consumer->acknowledged && tag <= consumer->delivered);
	consumer->acknowledged = consumer->unsent = tag;
	cqrs_amqp_put_acknowledgement(connection);
}

void
cqrs_amqp_put_acknowledgement(CqrsConnection *connection)
{
	CqrsConsumer *consumer = connection->consumer;
	amqp_basic_ack_t ack = {0};

	if (consumer->unsent == 0 || !cqrs_amqp_can_publish(connection))
		return;
	ack.delivery_tag = consumer->unsent;
	ack.multiple = 1;
	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_CHANNEL,
								AMQP_BASIC_ACK_METHOD, &ack);
	consumer->unsent = 0;
}

void
cqrs_amqp_handle_consumed(CqrsConnection *connection,
						  const amqp_frame_t *frame, const char *action,
						  CqrsEvent *event, CqrsFailure *failure)
{
	if (frame->frame_type == AMQP_FRAME_METHOD)
		handle_method(connection, &frame->payload.method, action, event,
					  failure);
	else if (frame->frame_type == AMQP_FRAME_HEADER)
		handle_header(connection->consumer, frame, action, event, failure);
	else
		handle_body(connection->consumer, frame->payload.body_fragment,
					action, event, failure);
}

void
cqrs_amqp_free_deliveries(CqrsConnection *connection)
{
	ListCell   *lc;

	if (connection->consumer->delivery != NULL)
		pfree(connection->consumer->delivery);
	foreach(lc, connection->kept)
	{
		CqrsEvent  *event = lfirst(lc);

		if (event->kind == CQRS_EVENT_DELIVERY)
			pfree(event->delivery);
	}
}

/*
 * Make an event of a method, if it is one that poll() reports.  What must not
 * come now makes a FAILED one, as in handle_header() and handle_body().
 */
static void
handle_method(CqrsConnection *connection, const amqp_method_t *method,
			  const char *action, CqrsEvent *event, CqrsFailure *failure)
{
	CqrsConsumer *consumer = connection->consumer;
	const char *wrong = NULL;

	if (consumer->content != CONTENT_NONE &&
		method->id != AMQP_CHANNEL_CLOSE_METHOD)
	{
		cqrs_amqp_violated(event, failure, action,
						   "method within the content of a delivery");
		return;
	}
	switch (method->id)
	{
		case AMQP_BASIC_QOS_OK_METHOD:
			if (consumer->tuning-- == 0)
				wrong = "unexpected AMQP_BASIC_QOS_OK_METHOD";
			break;

		case AMQP_BASIC_CONSUME_OK_METHOD:
			if (consumer->subscription != SUBSCRIPTION_BEGINS ||
				!is_ours(consumer, ((amqp_basic_consume_ok_t *) method->decoded)->consumer_tag))
				wrong = "unexpected AMQP_BASIC_CONSUME_OK_METHOD";
			consumer->subscription = SUBSCRIPTION_RUNS;
			event->kind = CQRS_EVENT_SUBSCRIBED;
			break;

		case AMQP_BASIC_DELIVER_METHOD:
			wrong = begin_delivery(consumer, method->decoded);
			break;

		case AMQP_BASIC_CANCEL_METHOD:
			if ((consumer->subscription != SUBSCRIPTION_RUNS &&
				 consumer->subscription != SUBSCRIPTION_ENDS) ||
				!is_ours(consumer, ((amqp_basic_cancel_t *) method->decoded)->consumer_tag))
				wrong = "unexpected AMQP_BASIC_CANCEL_METHOD";
			else
				handle_cancel(consumer, event);
			break;

		case AMQP_BASIC_CANCEL_OK_METHOD:
			if (consumer->subscription != SUBSCRIPTION_ENDS ||
				!is_ours(consumer, ((amqp_basic_cancel_ok_t *) method->decoded)->consumer_tag))
				wrong = "unexpected AMQP_BASIC_CANCEL_OK_METHOD";
			else
				end_subscription(consumer, consumer->cancelled, event);
			break;

		default:
			handle_close(method, action, event, failure);
			break;
	}
	if (wrong != NULL)
		cqrs_amqp_violated(event, failure, action, wrong);
}

/*
 * The broker ends the subscription.  If that was asked for, too, the answer
 * follows.
 */
static void
handle_cancel(CqrsConsumer *consumer, CqrsEvent *event)
{
	if (consumer->subscription == SUBSCRIPTION_ENDS)
		consumer->cancelled = true;
	else
		end_subscription(consumer, true, event);
}

/* The broker gives no reason when it ends a subscription. */
static void
end_subscription(CqrsConsumer *consumer, bool by_broker, CqrsEvent *event)
{
	consumer->subscription = SUBSCRIPTION_NONE;
	event->kind = CQRS_EVENT_CANCELLED;
	strlcpy(event->detail,
			by_broker ? "the queue was deleted, or its node has failed" : "",
			sizeof(event->detail));
}

/* Returns what is wrong with a basic.deliver, or NULL. */
static const char *
begin_delivery(CqrsConsumer *consumer, const amqp_basic_deliver_t *deliver)
{
	size_t		key_length;

	if ((consumer->subscription != SUBSCRIPTION_RUNS &&
		 consumer->subscription != SUBSCRIPTION_ENDS) ||
		!is_ours(consumer, deliver->consumer_tag))
		return "delivery without a subscription";
	if (deliver->delivery_tag != consumer->delivered + 1)
		return "delivery out of order";
	if (consumer->delivered - consumer->acknowledged >= consumer->most)
		return "more deliveries than the window has";
	consumer->delivered++;
	consumer->redelivered = deliver->redelivered;
	key_length = Min(deliver->routing_key.len, SHORTSTR_SIZE - 1);
	memcpy(consumer->routing_key, deliver->routing_key.bytes, key_length);
	consumer->routing_key[key_length] = '\0';
	consumer->content = CONTENT_HEADER;
	return NULL;
}

/*
 * Make the delivery that the header announces, if it is one of accepted size.
 */
static void
handle_header(CqrsConsumer *consumer, const amqp_frame_t *frame,
			  const char *action, CqrsEvent *event, CqrsFailure *failure)
{
	uint64		length = frame->payload.properties.body_size;

	if (consumer->content != CONTENT_HEADER)
		cqrs_amqp_violated(event, failure, action, "content of no message");
	else if (frame->payload.properties.class_id != AMQP_BASIC_CLASS)
		cqrs_amqp_violated(event, failure, action, "content of another class");
	else if (length > consumer->max_delivery)
	{
		event->kind = CQRS_EVENT_FAILED;
		cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
						 "%s: message of " UINT64_FORMAT " bytes, more than the %zu accepted",
						 action, length, consumer->max_delivery);
	}
	else
	{
		consumer->delivery = make_delivery(consumer,
										   frame->payload.properties.raw,
										   length);
		if (consumer->delivery == NULL)
		{
			event->kind = CQRS_EVENT_FAILED;
			cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
							 "%s: out of memory for a message of " UINT64_FORMAT " bytes",
							 action, length);
			return;
		}
		consumer->content = CONTENT_BODY;
		consumer->body_rest = length;
		if (length == 0)
			end_delivery(consumer, event);
	}
}

/* Returns NULL if there is not enough memory. */
static CqrsDelivery *
make_delivery(const CqrsConsumer *consumer, amqp_bytes_t properties,
			  Size length)
{
	char		id_buffer[SHORTSTR_SIZE];
	const char *message_id = text_of_id(properties, id_buffer);
	Size		key_size = strlen(consumer->routing_key) + 1;
	Size		id_size = message_id != NULL ? strlen(message_id) + 1 : 0;
	CqrsDelivery *delivery;
	char	   *to;

	delivery = MemoryContextAllocExtended(consumer->deliveries,
										  sizeof(CqrsDelivery) + key_size +
										  id_size + length + 1,
										  MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
	if (delivery == NULL)
		return NULL;
	to = (char *) (delivery + 1);
	delivery->tag = consumer->delivered;
	delivery->redelivered = consumer->redelivered;
	delivery->delivery_count = cqrs_amqp_properties_delivery_count(properties);
	delivery->routing_key = memcpy(to, consumer->routing_key, key_size);
	delivery->message_id = NULL;
	if (message_id != NULL)
		delivery->message_id = memcpy(to + key_size, message_id, id_size);
	delivery->length = length;
	delivery->body = to + key_size + id_size;
	delivery->body[length] = '\0';
	return delivery;
}

/*
 * The message id, in a buffer of SHORTSTR_SIZE.  An id that is no text of the
 * database as it stands counts as none: made valid, it could be equal to
 * another one.
 */
static const char *
text_of_id(amqp_bytes_t properties, char *buffer)
{
	amqp_bytes_t id;

	if (!cqrs_amqp_properties_message_id(properties, &id))
		return NULL;
	cqrs_failure_clean(buffer, SHORTSTR_SIZE, id.bytes, id.len);
	return strlen(buffer) == id.len && memcmp(buffer, id.bytes, id.len) == 0 ?
		buffer : NULL;
}

/* Add a part of the body to the delivery. */
static void
handle_body(CqrsConsumer *consumer, amqp_bytes_t part, const char *action,
			CqrsEvent *event, CqrsFailure *failure)
{
	if (consumer->content != CONTENT_BODY)
		cqrs_amqp_violated(event, failure, action, "content of no message");
	else if (part.len == 0 || part.len > consumer->body_rest)
		cqrs_amqp_violated(event, failure, action,
						   "delivery of another size than its header says");
	else
	{
		CqrsDelivery *delivery = consumer->delivery;

		memcpy(delivery->body + delivery->length - consumer->body_rest,
			   part.bytes, part.len);
		consumer->body_rest -= part.len;
		if (consumer->body_rest == 0)
			end_delivery(consumer, event);
	}
}

/* The delivery is complete, and is the caller's. */
static void
end_delivery(CqrsConsumer *consumer, CqrsEvent *event)
{
	event->kind = CQRS_EVENT_DELIVERY;
	event->delivery = consumer->delivery;
	consumer->delivery = NULL;
	consumer->content = CONTENT_NONE;
}

/*
 * RabbitMQ refuses an exclusive consumer with the code of a missing
 * permission.  PRECONDITION_FAILED is for acknowledgements, here.
 */
static void
handle_close(const amqp_method_t *method, const char *action,
			 CqrsEvent *event, CqrsFailure *failure)
{
	static const char exclusive[] = "in exclusive use";

	event->kind = CQRS_EVENT_FAILED;
	cqrs_amqp_describe_close(failure, action, method);
	if (method->id == AMQP_CHANNEL_CLOSE_METHOD)
	{
		amqp_channel_close_t *close = method->decoded;

		if (close->reply_code == AMQP_ACCESS_REFUSED &&
			memmem(close->reply_text.bytes, close->reply_text.len,
				   exclusive, strlen(exclusive)) != NULL)
			failure->blame = CQRS_BLAME_LEASE;
		else if (close->reply_code == AMQP_PRECONDITION_FAILED &&
				 close->class_id != AMQP_EXCHANGE_CLASS)
			failure->blame = CQRS_BLAME_TRANSPORT;
	}
}

/* Whether a consumer tag is that of this connection's subscription. */
static bool
is_ours(const CqrsConsumer *consumer, amqp_bytes_t tag)
{
	return tag.len == strlen(consumer->tag) &&
		memcmp(tag.bytes, consumer->tag, tag.len) == 0;
}
