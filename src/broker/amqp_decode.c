/*-------------------------------------------------------------------------
 *
 * amqp_decode.c
 *	  Checking and decoding of the frames that a broker sends.
 *
 * The peer can be anything that listens on the port, so nothing here relies on
 * the input.  A frame is read when it is complete, and its type, size and end
 * are checked before its content.
 *
 * librabbitmq decodes the arguments of methods, and checks them against their
 * length.  It is given only methods whose arguments are used.  None of these
 * carries a table: librabbitmq decodes tables recursively, and a frame has
 * room for more levels than the stack.  So the arguments of connection.start
 * and properties stay encoded; amqp_properties.c finds in them what is needed.
 *
 * Nothing raises an error, and nothing is kept.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "broker/amqp_decode.h"
#include "broker/amqp_rest.h"
#include "broker/failure.h"

#define METHOD_ID_BYTES		4
/* Class, weight and size of the body. */
#define CONTENT_BYTES		12

static bool is_frame_type(char type);
static bool decode_payload(CqrsRest payload, amqp_pool_t *pool,
						   amqp_frame_t *frame, char *error);
static bool decode_method(CqrsRest payload, amqp_pool_t *pool,
						  amqp_frame_t *frame, char *error);
static bool is_needed(amqp_method_number_t id);

int
cqrs_amqp_decode_frame(const char *input, Size length, Size max_size,
					   amqp_pool_t *pool, amqp_frame_t *frame, char *error)
{
	CqrsRest	rest = {input, length};
	CqrsRest	payload;
	uint64		type;
	uint64		channel;
	uint64		size;

	/* A broker that speaks another version answers with its own header. */
	if (length >= 4 && memcmp(input, "AMQP", 4) == 0)
	{
		strlcpy(error, "the broker speaks another version of AMQP",
				CQRS_DECODE_ERROR_BYTES);
		return -1;
	}
	if (length > 0 && !is_frame_type(input[0]) &&
		!(input[0] == 'A' && length < 4))
	{
		snprintf(error, CQRS_DECODE_ERROR_BYTES,
				 "protocol violation by the broker: frame of type %d",
				 (unsigned char) input[0]);
		return -1;
	}
	if (!cqrs_rest_uint(&rest, 1, &type) || !cqrs_rest_uint(&rest, 2, &channel) ||
		!cqrs_rest_uint(&rest, 4, &size))
		return 0;

	if (size > max_size - CQRS_FRAME_HEADER_BYTES - 1)
	{
		snprintf(error, CQRS_DECODE_ERROR_BYTES,
				 "protocol violation by the broker: frame of " UINT64_FORMAT " bytes, more than the %zu allowed",
				 size + CQRS_FRAME_HEADER_BYTES + 1, max_size);
		return -1;
	}
	payload.length = size;
	if (!cqrs_rest_take(&rest, size, &payload.data) || rest.length < 1)
		return 0;
	if ((unsigned char) rest.data[0] != AMQP_FRAME_END)
	{
		strlcpy(error, "protocol violation by the broker: frame without its end octet",
				CQRS_DECODE_ERROR_BYTES);
		return -1;
	}

	memset(frame, 0, sizeof(*frame));
	frame->frame_type = type;
	frame->channel = channel;
	if (!decode_payload(payload, pool, frame, error))
		return -1;
	return CQRS_FRAME_HEADER_BYTES + size + 1;
}

void
cqrs_amqp_decode_text(char *buffer, Size size, amqp_bytes_t text)
{
	cqrs_failure_quote(buffer, size, text.bytes, text.len);
}

static bool
is_frame_type(char type)
{
	return type == AMQP_FRAME_METHOD || type == AMQP_FRAME_HEADER ||
		type == AMQP_FRAME_BODY || type == AMQP_FRAME_HEARTBEAT;
}

/*
 * Fill in what a frame of its type has.  Returns false, with the reason in
 * "error", if it is malformed.
 */
static bool
decode_payload(CqrsRest payload, amqp_pool_t *pool, amqp_frame_t *frame,
			   char *error)
{
	uint64		class_id;
	uint64		weight;
	uint64		body_size;

	switch (frame->frame_type)
	{
		case AMQP_FRAME_METHOD:
			return decode_method(payload, pool, frame, error);

		case AMQP_FRAME_HEADER:
			if (!cqrs_rest_uint(&payload, 2, &class_id) ||
				!cqrs_rest_uint(&payload, 2, &weight) ||
				!cqrs_rest_uint(&payload, 8, &body_size))
			{
				strlcpy(error, "protocol violation by the broker: malformed header of a content",
						CQRS_DECODE_ERROR_BYTES);
				return false;
			}
			frame->payload.properties.class_id = class_id;
			frame->payload.properties.body_size = body_size;
			frame->payload.properties.raw.bytes =
				unconstify(char *, payload.data);
			frame->payload.properties.raw.len = payload.length;
			return true;

		case AMQP_FRAME_BODY:
			frame->payload.body_fragment.bytes =
				unconstify(char *, payload.data);
			frame->payload.body_fragment.len = payload.length;
			return true;

		default:
			return true;
	}
}

/*
 * The same for a method.  The arguments of those that are not needed are not
 * decoded.
 */
static bool
decode_method(CqrsRest payload, amqp_pool_t *pool, amqp_frame_t *frame,
			  char *error)
{
	amqp_method_t *method = &frame->payload.method;
	amqp_bytes_t arguments;
	uint64		id;
	int			status;

	if (!cqrs_rest_uint(&payload, METHOD_ID_BYTES, &id))
	{
		strlcpy(error, "protocol violation by the broker: malformed method",
				CQRS_DECODE_ERROR_BYTES);
		return false;
	}
	method->id = id;
	arguments.bytes = unconstify(char *, payload.data);
	arguments.len = payload.length;
	if (method->id == AMQP_CONNECTION_START_METHOD)
	{
		amqp_bytes_t *encoded = amqp_pool_alloc(pool, sizeof(amqp_bytes_t));

		if (encoded != NULL)
			*encoded = arguments;
		method->decoded = encoded;
		return true;
	}
	if (!is_needed(method->id))
		return true;

	status = amqp_decode_method(method->id, pool, arguments, &method->decoded);
	if (status == AMQP_STATUS_OK)
		return true;
	if (status == AMQP_STATUS_NO_MEMORY)
		strlcpy(error, amqp_error_string2(status), CQRS_DECODE_ERROR_BYTES);
	else
		snprintf(error, CQRS_DECODE_ERROR_BYTES,
				 "protocol violation by the broker: malformed %s",
				 amqp_method_name(method->id));
	return false;
}

/*
 * Whether the arguments of a method are decoded.  Such a method must not carry
 * a table.
 */
static bool
is_needed(amqp_method_number_t id)
{
	switch (id)
	{
		case AMQP_CONNECTION_TUNE_METHOD:
		case AMQP_CONNECTION_CLOSE_METHOD:
		case AMQP_CONNECTION_BLOCKED_METHOD:
		case AMQP_CHANNEL_CLOSE_METHOD:
		case AMQP_BASIC_ACK_METHOD:
		case AMQP_BASIC_NACK_METHOD:
		case AMQP_BASIC_RETURN_METHOD:
		case AMQP_BASIC_CONSUME_OK_METHOD:
		case AMQP_BASIC_CANCEL_METHOD:
		case AMQP_BASIC_CANCEL_OK_METHOD:
		case AMQP_BASIC_DELIVER_METHOD:
		case AMQP_BASIC_GET_OK_METHOD:
			return true;
		default:
			return false;
	}
}
