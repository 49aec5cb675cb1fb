/*-------------------------------------------------------------------------
 *
 * amqp_side.c
 *	  Requests on the second channel of a connection by AMQP 0-9-1.
 *
 * The broker refuses a request by closing the channel.  So queues are declared
 * and bound on a channel of their own, which is open for the time of one
 * function.  A refusal leaves the rest of the connection as it is; any other
 * failure leaves it in a state that is not known.
 *
 * These functions wait, each for at most the timeout of the options.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "broker/amqp.h"

/*
 * Bindings that are sent before an answer is awaited.  A binding takes 800 bytes
 * at most, and the output has room for all of these.
 */
#define BINDINGS_AT_ONCE	50

static amqp_table_entry_t *add(CqrsArguments *arguments, const char *key,
							   int kind);
static bool prepare(CqrsConnection *connection, const CqrsQueue *queue,
					CqrsFailure *failure);
static bool declare_exchanges(CqrsConnection *connection, List *bindings,
							  CqrsFailure *failure);
static bool bind_queue(CqrsConnection *connection, const CqrsQueue *queue,
					   CqrsFailure *failure);
static bool unbind_one(CqrsConnection *connection, const char *queue,
					   const CqrsBinding *binding, CqrsFailure *failure);

bool
cqrs_amqp_prepare_queue(CqrsConnection *connection, const CqrsQueue *queue,
						CqrsFailure *failure)
{
	return cqrs_amqp_open_side(connection, failure) &&
		prepare(connection, queue, failure) &&
		cqrs_amqp_close_side(connection, failure);
}

/* On the side channel: declare the queue and exchanges, and bind. */
static bool
prepare(CqrsConnection *connection, const CqrsQueue *queue,
		CqrsFailure *failure)
{
	CqrsArguments arguments = {0};

	if (queue->quorum)
		cqrs_amqp_add_text(&arguments, "x-queue-type", "quorum");
	if (queue->quorum && connection->limits_deliveries)
		cqrs_amqp_add_number(&arguments, "x-delivery-limit", -1);
	return cqrs_amqp_declare_queue(connection, queue->name, &arguments,
								   "could not declare the queue", failure) &&
		declare_exchanges(connection, queue->bindings, failure) &&
		bind_queue(connection, queue, failure);
}

void
cqrs_amqp_add_number(CqrsArguments *arguments, const char *key, int value)
{
	amqp_table_entry_t *entry = add(arguments, key, AMQP_FIELD_KIND_I32);

	entry->value.value.i32 = value;
}

void
cqrs_amqp_add_text(CqrsArguments *arguments, const char *key,
				   const char *value)
{
	amqp_table_entry_t *entry = add(arguments, key, AMQP_FIELD_KIND_UTF8);

	entry->value.value.bytes = amqp_cstring_bytes(value);
}

void
cqrs_amqp_add_true(CqrsArguments *arguments, const char *key)
{
	amqp_table_entry_t *entry = add(arguments, key, AMQP_FIELD_KIND_BOOLEAN);

	entry->value.value.boolean = 1;
}

static amqp_table_entry_t *
add(CqrsArguments *arguments, const char *key, int kind)
{
	amqp_table_entry_t *entry = &arguments->entries[arguments->count++];

	Assert(arguments->count <= lengthof(arguments->entries));
	entry->key = amqp_cstring_bytes(key);
	entry->value.kind = kind;
	return entry;
}

amqp_table_t
cqrs_amqp_table(CqrsArguments *arguments)
{
	amqp_table_t table = {arguments->count, arguments->entries};

	return table;
}

bool
cqrs_amqp_declare_queue(CqrsConnection *connection, const char *name,
						CqrsArguments *arguments, const char *action,
						CqrsFailure *failure)
{
	amqp_queue_declare_t declare = {0};
	amqp_frame_t frame;

	declare.queue = amqp_cstring_bytes(name);
	declare.durable = 1;
	declare.arguments = cqrs_amqp_table(arguments);
	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_SIDE_CHANNEL,
								AMQP_QUEUE_DECLARE_METHOD, &declare);
	if (cqrs_amqp_await(connection, CQRS_AMQP_SIDE_CHANNEL,
						AMQP_QUEUE_DECLARE_OK_METHOD, action, &frame, failure))
		return true;
	if (connection->side_open ||
		connection->side_code != AMQP_PRECONDITION_FAILED ||
		!cqrs_amqp_open_side(connection, failure))
		return false;
	declare.passive = 1;
	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_SIDE_CHANNEL,
								AMQP_QUEUE_DECLARE_METHOD, &declare);
	return cqrs_amqp_await(connection, CQRS_AMQP_SIDE_CHANNEL,
						   AMQP_QUEUE_DECLARE_OK_METHOD, action, &frame,
						   failure);
}

/* Each exchange of the bindings once, if bindings come ordered by exchange. */
static bool
declare_exchanges(CqrsConnection *connection, List *bindings,
				  CqrsFailure *failure)
{
	const char *last = NULL;
	amqp_frame_t frame;
	ListCell   *lc;

	foreach(lc, bindings)
	{
		const char *exchange = ((CqrsBinding *) lfirst(lc))->exchange;

		if (last != NULL && strcmp(exchange, last) == 0)
			continue;
		cqrs_amqp_declare_exchange(connection, CQRS_AMQP_SIDE_CHANNEL,
								   exchange);
		if (!cqrs_amqp_await(connection, CQRS_AMQP_SIDE_CHANNEL,
							 AMQP_EXCHANGE_DECLARE_OK_METHOD,
							 "could not declare the exchange", &frame, failure))
			return false;
		last = exchange;
	}
	return true;
}

/* The broker handles requests in order, so not each answer is asked for. */
static bool
bind_queue(CqrsConnection *connection, const CqrsQueue *queue,
		   CqrsFailure *failure)
{
	int			sent = 0;
	amqp_frame_t frame;
	ListCell   *lc;

	foreach(lc, queue->bindings)
	{
		const CqrsBinding *binding = lfirst(lc);
		amqp_queue_bind_t bind = {0};

		bind.queue = amqp_cstring_bytes(queue->name);
		bind.exchange = amqp_cstring_bytes(binding->exchange);
		bind.routing_key = amqp_cstring_bytes(binding->routing_key);
		bind.nowait = ++sent % BINDINGS_AT_ONCE != 0 &&
			lnext(queue->bindings, lc) != NULL;
		cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_SIDE_CHANNEL,
									AMQP_QUEUE_BIND_METHOD, &bind);
		if (!bind.nowait &&
			!cqrs_amqp_await(connection, CQRS_AMQP_SIDE_CHANNEL,
							 AMQP_QUEUE_BIND_OK_METHOD, "could not bind the queue",
							 &frame, failure))
			return false;
	}
	return true;
}

bool
cqrs_amqp_unbind(CqrsConnection *connection, const CqrsQueue *queue,
				 CqrsFailure *failure)
{
	ListCell   *lc;

	foreach(lc, queue->bindings)
	{
		if (!unbind_one(connection, queue->name, lfirst(lc), failure))
			return false;
	}
	return cqrs_amqp_close_side(connection, failure);
}

/* A queue or an exchange that is missing has no bindings. */
static bool
unbind_one(CqrsConnection *connection, const char *queue,
		   const CqrsBinding *binding, CqrsFailure *failure)
{
	amqp_queue_unbind_t unbind = {0};
	amqp_frame_t frame;

	if (!connection->side_open && !cqrs_amqp_open_side(connection, failure))
		return false;
	unbind.queue = amqp_cstring_bytes(queue);
	unbind.exchange = amqp_cstring_bytes(binding->exchange);
	unbind.routing_key = amqp_cstring_bytes(binding->routing_key);
	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_SIDE_CHANNEL,
								AMQP_QUEUE_UNBIND_METHOD, &unbind);
	return cqrs_amqp_await(connection, CQRS_AMQP_SIDE_CHANNEL,
						   AMQP_QUEUE_UNBIND_OK_METHOD, "could not unbind the queue",
						   &frame, failure) ||
		(!connection->side_open && connection->side_code == AMQP_NOT_FOUND);
}

bool
cqrs_amqp_delete_queue(CqrsConnection *connection, const char *queue,
					   CqrsFailure *failure)
{
	amqp_queue_delete_t delete = {0};
	amqp_frame_t frame;

	if (!cqrs_amqp_open_side(connection, failure))
		return false;
	delete.queue = amqp_cstring_bytes(queue);
	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_SIDE_CHANNEL,
								AMQP_QUEUE_DELETE_METHOD, &delete);
	return cqrs_amqp_await(connection, CQRS_AMQP_SIDE_CHANNEL,
						   AMQP_QUEUE_DELETE_OK_METHOD, "could not delete the queue",
						   &frame, failure) &&
		cqrs_amqp_close_side(connection, failure);
}

/*
 * Probes have the channel to themselves, once there has been one.  If a request
 * has failed before, the channel may still be open, and this fails, too.
 */
bool
cqrs_amqp_open_side(CqrsConnection *connection, CqrsFailure *failure)
{
	Assert(connection->probe == CQRS_PROBE_CLOSED);
	connection->deadline = cqrs_socket_deadline(connection->timeout_ms);
	connection->side_code = 0;
	connection->side_open = true;
	return cqrs_amqp_open_channel(connection, CQRS_AMQP_SIDE_CHANNEL, failure);
}

bool
cqrs_amqp_close_side(CqrsConnection *connection, CqrsFailure *failure)
{
	amqp_channel_close_t close = {0};
	amqp_frame_t frame;

	if (!connection->side_open)
		return true;
	close.reply_code = AMQP_REPLY_SUCCESS;
	close.reply_text = amqp_cstring_bytes("goodbye");
	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_SIDE_CHANNEL,
								AMQP_CHANNEL_CLOSE_METHOD, &close);
	if (!cqrs_amqp_await(connection, CQRS_AMQP_SIDE_CHANNEL,
						 AMQP_CHANNEL_CLOSE_OK_METHOD, "close a channel",
						 &frame, failure))
		return false;
	connection->side_open = false;
	return true;
}

bool
cqrs_amqp_side_closed(CqrsConnection *connection, const amqp_frame_t *frame,
					  const char *action, CqrsFailure *failure)
{
	const amqp_method_t *method = &frame->payload.method;
	amqp_channel_close_ok_t close_ok = {0};

	if (!connection->side_open || frame->channel != CQRS_AMQP_SIDE_CHANNEL ||
		frame->frame_type != AMQP_FRAME_METHOD ||
		method->id != AMQP_CHANNEL_CLOSE_METHOD)
		return false;
	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_SIDE_CHANNEL,
								AMQP_CHANNEL_CLOSE_OK_METHOD, &close_ok);
	connection->side_open = false;
	connection->side_code = ((amqp_channel_close_t *) method->decoded)->reply_code;
	cqrs_amqp_describe_close(failure, action, method);
	return true;
}
