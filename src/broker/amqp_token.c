/*-------------------------------------------------------------------------
 *
 * amqp_token.c
 *	  The lease of a connection by AMQP 0-9-1, as the message of a queue.
 *
 * RabbitMQ keeps an exclusive queue, from 4.2 on, until the node of its
 * connection is back: a node that is lost would take the lease with it.  So the
 * lease is a message there, the token, in a quorum queue of that name with a
 * single active consumer.  The connection that has the token has the lease.  The
 * token is never acknowledged: at the end of the connection, or some seconds
 * after the loss of its node, the broker gives the token to the next consumer.
 *
 *	  - A consumer that gets no token soon publishes one: the queue may be new.
 *		The queue keeps one message at most, and the active consumer
 *		acknowledges its token when it gets another one.  So tokens do not pile
 *		up.
 *	  - Whether a lease is free that the connection does not want is found by
 *		taking it, and giving it up, but only if its queue exists: a message for
 *		a queue that does not exist is returned.
 *	  - Now and then the connection returns the token to the queue, which gives
 *		the token back to the active consumer.  If the token does not come
 *		back, the node was cut off from the others, and another connection may
 *		have the lease by now: the connection fails.  This needs no publishing,
 *		so the connection of a consumer is not blocked in an alarm, and it keeps
 *		the token from reaching RabbitMQ's consumer timeout.
 *	  - An exclusive queue of that name, of an older node of the cluster, is
 *		respected: declaring fails with 405.
 *
 * The lease has a channel of its own, since deliveries on the first one are
 * counted (amqp_consume.c).  RabbitMQ deletes a queue that has had no consumer
 * for a week.  Not sooner: a consumer that comes back in an alarm finds its token
 * there, and need not publish one, which the broker would not read.  A queue that
 * has grown without its consumer can be the cause of the alarm.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "base/exchange.h"
#include "base/timing.h"
#include "broker/amqp.h"
#include "broker/amqp_decode.h"

#define KEEPING		"could not keep the lease"

/* The wait for a token, before one is published, and after that. */
#define FIRST_WAIT_MS		300
#define SECOND_WAIT_MS		1000
/*
 * The time after which the token is returned, and the wait for it then: in
 * heartbeat intervals, and at least.  When the leader of a quorum queue dies,
 * RabbitMQ itself repeats what was sent to it, after ten seconds.
 */
#define RETURN_INTERVALS	12
#define RETURN_MS			(10 * 1000)
#define WAIT_INTERVALS		6
#define WAIT_MS				(30 * 1000)
/* At most, for both: RabbitMQ's consumer timeout is half an hour. */
#define MOST_MS				(10 * 60 * 1000)
/* The heartbeat interval of a connection that has none. */
#define NO_HEARTBEAT_S		10
/* Arguments of the queue. */
#define DISCONNECTED_MS		2000
#define EXPIRES_MS			(7 * 24 * 3600 * 1000)
/*
 * A token has no body.  What others have published may have one, of any size
 * that RabbitMQ accepts: to refuse it would be to refuse it for ever.
 */
#define BODY_BYTES			(512 * 1024 * 1024)

typedef enum Content
{
	CONTENT_NONE,				/* no delivery is arriving */
	CONTENT_HEADER,				/* its header is next */
	CONTENT_BODY				/* its body, or more of it, is next */
} Content;

typedef struct TagText
{
	char		text[32];
} TagText;

struct CqrsAmqpToken
{
	int			consumers;		/* on the channel, up to now */
	TagText		own;			/* the consumer of the connection's lease */
	TagText		other;			/* that of a lease that has to be free */
	uint64		own_token;		/* the delivery that each has; 0: none */
	uint64		other_token;
	uint64		delivered;		/* the last delivery */
	uint64		useless;		/* deliveries up to this one are to be
								 * acknowledged, once own_token is above; 0:
								 * they have been */
	TimestampTz since;			/* when the token came, or was returned, or
								 * the broker has read that */
	bool		asked;			/* qos-ok is awaited */
	List	   *checked;		/* names of leases whose queues may exist */

	Content		content;
	bool		returned;		/* it is that of a message that was returned */
	TagText		arriving;		/* the consumer of the delivery */
	Size		rest;			/* bytes of its body */
};

static bool take_token(CqrsConnection *connection, const char *name,
					   TagText *consumer, const uint64 *token,
					   const char *action, CqrsFailure *failure);
static bool subscribe(CqrsConnection *connection, const char *name,
					  const char *consumer, const char *action,
					  CqrsFailure *failure);
static void add_arguments(CqrsArguments *arguments);
static void publish_token(CqrsConnection *connection, const char *name);
static bool await_token(CqrsConnection *connection, const uint64 *token,
						int timeout_ms, const char *action, bool *late,
						CqrsFailure *failure);
static bool check_tokens(CqrsConnection *connection, List **names,
						 CqrsFailure *failure);
static bool find_queues(CqrsConnection *connection, List *names,
						CqrsFailure *failure);
static bool check_token(CqrsConnection *connection, const char *name,
						CqrsFailure *failure);
static void put_back(CqrsConnection *connection, uint64 tag);
static void put_qos(CqrsConnection *connection);
static bool has_useless(const CqrsAmqpToken *lease);
static const char *handle_method(CqrsAmqpToken *lease,
								 const amqp_method_t *method);
static const char *begin_delivery(CqrsAmqpToken *lease,
								  const amqp_basic_deliver_t *deliver);
static const char *begin_return(CqrsAmqpToken *lease,
								const amqp_basic_return_t *back);
static const char *handle_content(CqrsAmqpToken *lease,
								  const amqp_frame_t *frame);
static void arrived(CqrsAmqpToken *lease);
static void lost(CqrsEvent *event, CqrsFailure *failure, const char *reason);

bool
cqrs_amqp_take_token(CqrsConnection *connection, const char *name,
					 List **vacant, CqrsFailure *failure)
{
	CqrsAmqpToken *lease = MemoryContextAllocZero(connection->context,
												  sizeof(CqrsAmqpToken));

	connection->token = lease;
	return cqrs_amqp_open_channel(connection, CQRS_AMQP_LEASE_CHANNEL,
								  failure) &&
		take_token(connection, name, &lease->own, &lease->own_token, CQRS_AMQP_TAKING,
				   failure) &&
		check_tokens(connection, vacant, failure);
}

/*
 * Get the token of a queue.  The name of the consumer is made here; its token
 * appears in *token.
 */
static bool
take_token(CqrsConnection *connection, const char *name, TagText *consumer,
		   const uint64 *token, const char *action, CqrsFailure *failure)
{
	bool		late;

	snprintf(consumer->text, sizeof(consumer->text), "lease-%d",
			 ++connection->token->consumers);
	if (!subscribe(connection, name, consumer->text, action, failure))
		return false;
	if (await_token(connection, token, FIRST_WAIT_MS, action, &late, failure))
		return true;
	if (!late)
		return false;
	publish_token(connection, name);
	return await_token(connection, token, SECOND_WAIT_MS, action, &late,
					   failure);
}

/*
 * Declare the queue of a lease, and consume it.  The exchange is one of our
 * own, so the login needs no permission to publish to the queues of others.
 */
static bool
subscribe(CqrsConnection *connection, const char *name, const char *consumer,
		  const char *action, CqrsFailure *failure)
{
	static const amqp_method_number_t answers[] = {
		AMQP_EXCHANGE_DECLARE_OK_METHOD, AMQP_QUEUE_DECLARE_OK_METHOD,
		AMQP_QUEUE_BIND_OK_METHOD, AMQP_BASIC_CONSUME_OK_METHOD
	};
	CqrsArguments arguments = {0};
	amqp_exchange_declare_t exchange = {0};
	amqp_queue_declare_t queue = {0};
	amqp_queue_bind_t bind = {0};
	amqp_basic_consume_t consume = {0};
	void	   *requests[] = {&exchange, &queue, &bind, &consume};
	amqp_method_number_t ids[] = {
		AMQP_EXCHANGE_DECLARE_METHOD, AMQP_QUEUE_DECLARE_METHOD,
		AMQP_QUEUE_BIND_METHOD, AMQP_BASIC_CONSUME_METHOD
	};

	exchange.exchange = amqp_cstring_bytes(CQRS_LEASE_EXCHANGE);
	exchange.type = amqp_cstring_bytes("direct");
	exchange.durable = 1;
	queue.queue = amqp_cstring_bytes(name);
	queue.durable = 1;
	add_arguments(&arguments);
	queue.arguments = cqrs_amqp_table(&arguments);
	bind.queue = queue.queue;
	bind.exchange = exchange.exchange;
	bind.routing_key = queue.queue;
	consume.queue = queue.queue;
	consume.consumer_tag = amqp_cstring_bytes(consumer);
	for (int i = 0; i < lengthof(answers); i++)
	{
		amqp_frame_t frame;

		cqrs_amqp_frames_put_method(connection->frames,
									CQRS_AMQP_LEASE_CHANNEL, ids[i],
									requests[i]);
		if (!cqrs_amqp_await(connection, CQRS_AMQP_LEASE_CHANNEL, answers[i],
							 action, &frame, failure))
			return false;
	}
	return true;
}

/*
 * The same for all versions: a queue that exists with other arguments is not
 * declared again.  RabbitMQ ignores arguments that it does not know.
 */
static void
add_arguments(CqrsArguments *arguments)
{
	cqrs_amqp_add_text(arguments, "x-queue-type", "quorum");
	cqrs_amqp_add_true(arguments, "x-single-active-consumer");
	cqrs_amqp_add_number(arguments, "x-max-length", 1);
	cqrs_amqp_add_number(arguments, "x-delivery-limit", -1);
	cqrs_amqp_add_number(arguments, "x-consumer-disconnected-timeout",
						 DISCONNECTED_MS);
	cqrs_amqp_add_number(arguments, "x-expires", EXPIRES_MS);
}

/* A message that no queue takes is returned. */
static void
publish_token(CqrsConnection *connection, const char *name)
{
	CqrsEnvelope envelope = {
		.exchange = CQRS_LEASE_EXCHANGE,
		.routing_key = name,
		.message_id = "",
		.timestamp = GetCurrentTimestamp(),
		.body = ""
	};

	cqrs_amqp_put_message(connection, CQRS_AMQP_LEASE_CHANNEL, &envelope);
}

/*
 * Wait until *token is not 0, within the connection's deadline.  *late is set
 * if nothing but the time has ended the wait.
 */
static bool
await_token(CqrsConnection *connection, const uint64 *token, int timeout_ms,
			const char *action, bool *late, CqrsFailure *failure)
{
	int64		deadline = connection->deadline;
	bool		failed = false;

	*late = false;
	connection->deadline = Min(deadline, cqrs_socket_deadline(timeout_ms));
	while (*token == 0 && !failed)
	{
		amqp_frame_t frame;
		CqrsEvent	event = {0};

		failed = !cqrs_amqp_await(connection, CQRS_AMQP_LEASE_CHANNEL,
								  CQRS_AMQP_ANY_FRAME, action, &frame,
								  failure);
		if (!failed)
			cqrs_amqp_handle_token(connection, &frame, action, &event,
								   failure);
		*late = failed;
		failed = failed || event.kind == CQRS_EVENT_FAILED;
	}
	*late = *late && !cqrs_socket_may_go_on(connection->deadline) &&
		cqrs_socket_may_go_on(deadline);
	connection->deadline = deadline;
	if (*late)
		cqrs_failure_set(failure, CQRS_BLAME_LEASE,
						 "%s: another connection has the lease", action);
	return !failed;
}

/* Returns false if one of these leases is not free; removes those that are. */
static bool
check_tokens(CqrsConnection *connection, List **names, CqrsFailure *failure)
{
	List	   *found;
	ListCell   *lc;

	if (*names != NIL && !find_queues(connection, *names, failure))
		return false;

	/* From now on nothing may be returned, which would change the list. */
	found = connection->token->checked;
	connection->token->checked = NIL;
	foreach(lc, found)
	{
		if (!check_token(connection, lfirst(lc), failure))
			return false;
		*names = list_delete_ptr(*names, lfirst(lc));
	}
	list_free(found);
	return true;
}

/*
 * Keep the names whose queues exist in lease->checked.  The broker handles
 * requests in order: all messages have been routed when it answers the last one.
 */
static bool
find_queues(CqrsConnection *connection, List *names, CqrsFailure *failure)
{
	MemoryContext old = MemoryContextSwitchTo(connection->context);
	CqrsAmqpToken *lease = connection->token;
	ListCell   *lc;

	lease->checked = list_copy(names);
	MemoryContextSwitchTo(old);
	foreach(lc, names)
		publish_token(connection, lfirst(lc));
	put_qos(connection);
	while (lease->asked)
	{
		amqp_frame_t frame;
		CqrsEvent	event = {0};

		if (!cqrs_amqp_await(connection, CQRS_AMQP_LEASE_CHANNEL,
							 CQRS_AMQP_ANY_FRAME, CQRS_AMQP_TAKING_ALL, &frame, failure))
			return false;
		cqrs_amqp_handle_token(connection, &frame, CQRS_AMQP_TAKING_ALL, &event,
							   failure);
		if (event.kind == CQRS_EVENT_FAILED)
			return false;
	}
	return true;
}

/* Take the lease of another lane, and give it up at once. */
static bool
check_token(CqrsConnection *connection, const char *name, CqrsFailure *failure)
{
	CqrsAmqpToken *lease = connection->token;
	amqp_basic_cancel_t cancel = {0};
	amqp_frame_t frame;

	lease->other_token = 0;
	if (!take_token(connection, name, &lease->other, &lease->other_token,
					CQRS_AMQP_TAKING_ALL, failure))
		return false;
	cancel.consumer_tag = amqp_cstring_bytes(lease->other.text);
	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_LEASE_CHANNEL,
								AMQP_BASIC_CANCEL_METHOD, &cancel);
	if (!cqrs_amqp_await(connection, CQRS_AMQP_LEASE_CHANNEL,
						 AMQP_BASIC_CANCEL_OK_METHOD, CQRS_AMQP_TAKING_ALL, &frame,
						 failure))
		return false;
	put_back(connection, lease->other_token);
	lease->other.text[0] = '\0';
	return true;
}

/* RabbitMQ 4.3 counts basic.reject towards a delivery limit, of a policy. */
static void
put_back(CqrsConnection *connection, uint64 tag)
{
	amqp_basic_nack_t nack = {tag, 0, 1};

	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_LEASE_CHANNEL,
								AMQP_BASIC_NACK_METHOD, &nack);
}

/* The answer shows that the broker has read what was sent before. */
static void
put_qos(CqrsConnection *connection)
{
	amqp_basic_qos_t qos = {0};

	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_LEASE_CHANNEL,
								AMQP_BASIC_QOS_METHOD, &qos);
	connection->token->asked = true;
}

/* An acknowledgement stands for all deliveries before it; the token stays. */
static bool
has_useless(const CqrsAmqpToken *lease)
{
	return lease->useless > 0 && lease->own_token > lease->useless;
}

void
cqrs_amqp_keep_token(CqrsConnection *connection, CqrsEvent *event,
					 CqrsFailure *failure)
{
	CqrsAmqpToken *lease = connection->token;

	/* The broker reads nothing meanwhile. */
	if (connection->blocked)
		lease->since = GetCurrentTimestamp();
	if (!cqrs_amqp_frames_has_room(connection->frames))
		return;
	if (has_useless(lease))
	{
		amqp_basic_ack_t ack = {lease->useless, 1};

		cqrs_amqp_frames_put_method(connection->frames,
									CQRS_AMQP_LEASE_CHANNEL,
									AMQP_BASIC_ACK_METHOD, &ack);
		lease->useless = 0;
	}
	if (cqrs_amqp_token_wait_ms(connection) != 0)
		return;
	if (lease->own_token == 0)
	{
		lost(event, failure, "the broker has given it to another connection");
		return;
	}
	put_back(connection, lease->own_token);
	put_qos(connection);
	lease->own_token = 0;
	lease->since = GetCurrentTimestamp();
}

long
cqrs_amqp_token_wait_ms(const CqrsConnection *connection)
{
	const CqrsAmqpToken *lease = connection->token;
	int64		interval_ms;

	/* If there is no room, the socket gets ready when there may be. */
	if (lease == NULL || connection->blocked || lease->asked ||
		!cqrs_amqp_frames_has_room(connection->frames))
		return -1;
	if (has_useless(lease))
		return 0;
	interval_ms = 1000 * (connection->heartbeat_s > 0 ?
						  connection->heartbeat_s : NO_HEARTBEAT_S);
	return cqrs_until_after_ms(lease->since, lease->own_token != 0 ?
							   Min(Max(RETURN_INTERVALS * interval_ms, RETURN_MS), MOST_MS) :
							   Min(Max(WAIT_INTERVALS * interval_ms, WAIT_MS), MOST_MS));
}

void
cqrs_amqp_handle_token(CqrsConnection *connection, const amqp_frame_t *frame,
					   const char *action, CqrsEvent *event,
					   CqrsFailure *failure)
{
	const amqp_method_t *method = frame->frame_type == AMQP_FRAME_METHOD ?
	&frame->payload.method : NULL;
	const char *violation;

	if (method != NULL && method->id == AMQP_CHANNEL_CLOSE_METHOD)
	{
		event->kind = CQRS_EVENT_FAILED;
		cqrs_amqp_describe_close(failure, action, method);
		/* The messages in flight have nothing to do with it. */
		if (failure->blame != CQRS_BLAME_LEASE)
			failure->blame = CQRS_BLAME_TRANSPORT;
		return;
	}
	if (method != NULL && method->id == AMQP_BASIC_CANCEL_METHOD)
	{
		lost(event, failure, "the broker has ended the subscription");
		return;
	}
	violation = method != NULL ? handle_method(connection->token, method) :
		handle_content(connection->token, frame);
	if (violation != NULL)
		cqrs_amqp_violated(event, failure, action, violation);
}

/* These return NULL, or how the broker has violated the protocol. */
static const char *
handle_method(CqrsAmqpToken *lease, const amqp_method_t *method)
{
	if (lease->content != CONTENT_NONE)
		return "method within the content of a token";
	switch (method->id)
	{
		case AMQP_BASIC_DELIVER_METHOD:
			return begin_delivery(lease, method->decoded);

		case AMQP_BASIC_RETURN_METHOD:
			return begin_return(lease, method->decoded);

		case AMQP_BASIC_QOS_OK_METHOD:
			if (!lease->asked)
				break;
			lease->asked = false;
			lease->since = GetCurrentTimestamp();
			return NULL;

		default:
			break;
	}
	return "unexpected method on the channel of the lease";
}

static const char *
begin_delivery(CqrsAmqpToken *lease, const amqp_basic_deliver_t *deliver)
{
	Size		length = deliver->consumer_tag.len;

	if (length >= sizeof(lease->arriving.text) ||
		deliver->delivery_tag <= lease->delivered)
		return "delivery that was not asked for";
	memcpy(lease->arriving.text, deliver->consumer_tag.bytes, length);
	lease->arriving.text[length] = '\0';
	lease->delivered = deliver->delivery_tag;
	lease->content = CONTENT_HEADER;
	lease->returned = false;
	return NULL;
}

/* The message is for a queue of lease->checked, which does not exist. */
static const char *
begin_return(CqrsAmqpToken *lease, const amqp_basic_return_t *back)
{
	ListCell   *lc;

	foreach(lc, lease->checked)
	{
		const char *name = lfirst(lc);

		if (back->routing_key.len != strlen(name) ||
			memcmp(back->routing_key.bytes, name, strlen(name)) != 0)
			continue;
		lease->checked = list_delete_cell(lease->checked, lc);
		lease->content = CONTENT_HEADER;
		lease->returned = true;
		return NULL;
	}
	return "return of a token whose queue exists";
}

/* A token counts from its header on: its body may take a while. */
static const char *
handle_content(CqrsAmqpToken *lease, const amqp_frame_t *frame)
{
	if (frame->frame_type == AMQP_FRAME_HEADER &&
		lease->content == CONTENT_HEADER &&
		frame->payload.properties.class_id == AMQP_BASIC_CLASS &&
		frame->payload.properties.body_size <= BODY_BYTES)
	{
		lease->rest = frame->payload.properties.body_size;
		if (!lease->returned)
			arrived(lease);
	}
	else if (frame->frame_type == AMQP_FRAME_BODY &&
			 lease->content == CONTENT_BODY &&
			 frame->payload.body_fragment.len > 0 &&
			 frame->payload.body_fragment.len <= lease->rest)
		lease->rest -= frame->payload.body_fragment.len;
	else
		return "unexpected content on the channel of the lease";
	lease->content = lease->rest > 0 ? CONTENT_BODY : CONTENT_NONE;
	return NULL;
}

/*
 * A token has arrived.  Another one of the same queue makes the one before it
 * useless, and so does the end of its subscription.
 */
static void
arrived(CqrsAmqpToken *lease)
{
	uint64	   *token = NULL;

	if (strcmp(lease->arriving.text, lease->own.text) == 0)
		token = &lease->own_token;
	else if (strcmp(lease->arriving.text, lease->other.text) == 0)
		token = &lease->other_token;
	else
		lease->useless = lease->delivered;
	if (token == NULL)
		return;
	if (*token != 0)
		lease->useless = *token;
	*token = lease->delivered;
	if (token == &lease->own_token)
		lease->since = GetCurrentTimestamp();
}

static void
lost(CqrsEvent *event, CqrsFailure *failure, const char *reason)
{
	event->kind = CQRS_EVENT_FAILED;
	cqrs_failure_set(failure, CQRS_BLAME_LEASE, "%s: %s", KEEPING, reason);
}
