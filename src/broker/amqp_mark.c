/*-------------------------------------------------------------------------
 *
 * amqp_mark.c
 *	  Marks: short texts that a broker keeps, by AMQP 0-9-1.
 *
 * A mark is a durable queue of that name for one message at most; a new one
 * drives out the old one.  Reading takes the message without acknowledging it,
 * and gives it back by closing the channel.
 *
 * Meanwhile others find an empty queue, for as long as the connection is taken
 * for alive.  So the connection that reads is to be the one with the lease:
 * when the lease is free, the message is back.
 *
 * A quorum queue counts how often a message was given back and drops it past a
 * limit, which RabbitMQ has by default from version 4 on.  From there on the
 * queue is declared as a quorum queue without limit; a classic one would
 * refuse that argument.  Before, the type is the virtual host's default, and
 * neither type has a limit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "broker/amqp.h"
#include "broker/amqp_decode.h"

#define READING "could not read the mark"
#define WRITING "could not write the mark"

static bool declare_mark(CqrsConnection *connection, const char *name,
						 const char *action, CqrsFailure *failure);
static bool get_mark(CqrsConnection *connection, const char *name, char *text,
					 Size size, CqrsFailure *failure);
static bool receive_text(CqrsConnection *connection, char *text, Size size,
						 CqrsFailure *failure);
static bool put_mark(CqrsConnection *connection, const char *name,
					 const char *text, CqrsFailure *failure);
static bool failed(CqrsFailure *failure, const char *action, const char *what);

bool
cqrs_amqp_read_mark(CqrsConnection *connection, const char *name, char *text,
					Size size, CqrsFailure *failure)
{
	return cqrs_amqp_open_side(connection, failure) &&
		declare_mark(connection, name, READING, failure) &&
		get_mark(connection, name, text, size, failure) &&
		cqrs_amqp_close_side(connection, failure);
}

bool
cqrs_amqp_write_mark(CqrsConnection *connection, const char *name,
					 const char *text, CqrsFailure *failure)
{
	return cqrs_amqp_open_side(connection, failure) &&
		declare_mark(connection, name, WRITING, failure) &&
		put_mark(connection, name, text, failure) &&
		cqrs_amqp_close_side(connection, failure);
}

/* Declare the queue that has the mark: its last message. */
static bool
declare_mark(CqrsConnection *connection, const char *name, const char *action,
			 CqrsFailure *failure)
{
	CqrsArguments arguments = {0};

	cqrs_amqp_add_number(&arguments, "x-max-length", 1);
	if (connection->limits_deliveries)
	{
		cqrs_amqp_add_text(&arguments, "x-queue-type", "quorum");
		cqrs_amqp_add_number(&arguments, "x-delivery-limit", -1);
	}
	return cqrs_amqp_declare_queue(connection, name, &arguments, action,
								   failure);
}

/*
 * Read the mark, "" if there is none; it comes back to its queue with the end
 * of the channel.
 */
static bool
get_mark(CqrsConnection *connection, const char *name, char *text, Size size,
		 CqrsFailure *failure)
{
	amqp_basic_get_t get = {0};
	amqp_frame_t frame;

	get.queue = amqp_cstring_bytes(name);
	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_SIDE_CHANNEL,
								AMQP_BASIC_GET_METHOD, &get);
	if (!cqrs_amqp_await(connection, CQRS_AMQP_SIDE_CHANNEL,
						 CQRS_AMQP_ANY_FRAME, READING, &frame, failure))
		return false;
	text[0] = '\0';
	if (frame.frame_type != AMQP_FRAME_METHOD)
		return failed(failure, READING, "content of no message");
	if (frame.payload.method.id == AMQP_BASIC_GET_EMPTY_METHOD)
		return true;
	if (frame.payload.method.id != AMQP_BASIC_GET_OK_METHOD)
		return failed(failure, READING, "unexpected method");
	return receive_text(connection, text, size, failure);
}

/* The content of a message, which has to fit into "text" with its zero. */
static bool
receive_text(CqrsConnection *connection, char *text, Size size,
			 CqrsFailure *failure)
{
	amqp_frame_t frame;
	Size		length;
	Size		received = 0;

	if (!cqrs_amqp_await(connection, CQRS_AMQP_SIDE_CHANNEL,
						 CQRS_AMQP_ANY_FRAME, READING, &frame, failure))
		return false;
	if (frame.frame_type != AMQP_FRAME_HEADER ||
		frame.payload.properties.body_size >= size)
		return failed(failure, READING, "message that is no mark");
	length = frame.payload.properties.body_size;
	while (received < length)
	{
		amqp_bytes_t *part = &frame.payload.body_fragment;

		if (!cqrs_amqp_await(connection, CQRS_AMQP_SIDE_CHANNEL,
							 CQRS_AMQP_ANY_FRAME, READING, &frame, failure))
			return false;
		if (frame.frame_type != AMQP_FRAME_BODY || part->len == 0 ||
			part->len > length - received)
			return failed(failure, READING,
						  "message of another size than its header says");
		memcpy(text + received, part->bytes, part->len);
		received += part->len;
	}
	text[length] = '\0';
	return true;
}

/* By the default exchange, which takes the name of a queue as routing key. */
static bool
put_mark(CqrsConnection *connection, const char *name, const char *text,
		 CqrsFailure *failure)
{
	amqp_confirm_select_t select = {0};
	amqp_frame_t frame;
	CqrsEnvelope envelope = {
		.exchange = "",
		.routing_key = name,
		.message_id = "",
		.timestamp = GetCurrentTimestamp(),
		.body = text,
		.body_length = strlen(text)
	};

	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_SIDE_CHANNEL,
								AMQP_CONFIRM_SELECT_METHOD, &select);
	if (!cqrs_amqp_await(connection, CQRS_AMQP_SIDE_CHANNEL,
						 AMQP_CONFIRM_SELECT_OK_METHOD, WRITING, &frame,
						 failure))
		return false;
	cqrs_amqp_put_message(connection, CQRS_AMQP_SIDE_CHANNEL, &envelope);
	if (!cqrs_amqp_await(connection, CQRS_AMQP_SIDE_CHANNEL,
						 CQRS_AMQP_ANY_FRAME, WRITING, &frame, failure))
		return false;
	/* A queue that is gone again would return the message. */
	if (frame.frame_type != AMQP_FRAME_METHOD ||
		frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
		return failed(failure, WRITING, "the message was not taken");
	return true;
}

/* Set *failure, and return false. */
static bool
failed(CqrsFailure *failure, const char *action, const char *what)
{
	cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
					 "%s: unexpected answer of the broker: %s", action,
					 what);
	return false;
}
