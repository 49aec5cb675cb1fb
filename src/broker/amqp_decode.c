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
 * length.  It is given only methods that a publisher uses.  None of these
 * carries a table: librabbitmq decodes tables recursively, and a frame has
 * room for more levels than the stack.  So connection.start stays undecoded,
 * and properties are read here, where tables are skipped.
 *
 * Nothing raises an error, and nothing is kept.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "broker/amqp_decode.h"
#include "broker/failure.h"

#define METHOD_ID_BYTES		4
/* Class, weight and size of the body. */
#define CONTENT_BYTES		12

/* The part of encoded data that has not been read yet. */
typedef struct Rest
{
	const char *data;
	Size		length;
} Rest;

typedef enum PropertyType
{
	PROPERTY_OCTET,
	PROPERTY_TEXT,				/* a byte with its length, and the text */
	PROPERTY_TABLE				/* four bytes with its length, and the table */
} PropertyType;

/* The properties of class basic before the message id, in their order. */
static const struct
{
	uint16		flag;
	PropertyType type;
}			before_message_id[] =

{
	{AMQP_BASIC_CONTENT_TYPE_FLAG, PROPERTY_TEXT},
	{AMQP_BASIC_CONTENT_ENCODING_FLAG, PROPERTY_TEXT},
	{AMQP_BASIC_HEADERS_FLAG, PROPERTY_TABLE},
	{AMQP_BASIC_DELIVERY_MODE_FLAG, PROPERTY_OCTET},
	{AMQP_BASIC_PRIORITY_FLAG, PROPERTY_OCTET},
	{AMQP_BASIC_CORRELATION_ID_FLAG, PROPERTY_TEXT},
	{AMQP_BASIC_REPLY_TO_FLAG, PROPERTY_TEXT},
	{AMQP_BASIC_EXPIRATION_FLAG, PROPERTY_TEXT}
};

static bool is_frame_type(char type);
static bool decode_payload(Rest payload, amqp_pool_t *pool,
						   amqp_frame_t *frame, char *error);
static bool decode_method(Rest payload, amqp_pool_t *pool,
						  amqp_frame_t *frame, char *error);
static bool is_needed(amqp_method_number_t id);
static bool take(Rest *rest, Size length, const char **data);
static bool take_uint(Rest *rest, Size length, uint64 *value);
static bool take_property(Rest *rest, PropertyType type, amqp_bytes_t *value);

int
cqrs_decode_frame(const char *input, Size length, Size max_size,
				  amqp_pool_t *pool, amqp_frame_t *frame, char *error)
{
	Rest		rest = {input, length};
	Rest		payload;
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
	if (!take_uint(&rest, 1, &type) || !take_uint(&rest, 2, &channel) ||
		!take_uint(&rest, 4, &size))
		return 0;

	if (size > max_size - CQRS_FRAME_HEADER_BYTES - 1)
	{
		snprintf(error, CQRS_DECODE_ERROR_BYTES,
				 "protocol violation by the broker: frame of " UINT64_FORMAT " bytes, more than the %zu allowed",
				 size + CQRS_FRAME_HEADER_BYTES + 1, max_size);
		return -1;
	}
	payload.length = size;
	if (!take(&rest, size, &payload.data) || rest.length < 1)
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

bool
cqrs_decode_message_id(amqp_bytes_t properties, amqp_bytes_t *message_id)
{
	Rest		rest = {properties.bytes, properties.len};
	uint64		flags;

	/* Bit 0 would say that more flags follow; class basic has none. */
	if (!take_uint(&rest, 2, &flags) || (flags & 1) != 0 ||
		(flags & AMQP_BASIC_MESSAGE_ID_FLAG) == 0)
		return false;
	for (int i = 0; i < lengthof(before_message_id); i++)
	{
		amqp_bytes_t ignored;

		if ((flags & before_message_id[i].flag) != 0 &&
			!take_property(&rest, before_message_id[i].type, &ignored))
			return false;
	}
	return take_property(&rest, PROPERTY_TEXT, message_id);
}

void
cqrs_decode_text(char *buffer, Size size, amqp_bytes_t text)
{
	cqrs_failure_clean(buffer, size, text.bytes, text.len);
}

static bool
is_frame_type(char type)
{
	return type == AMQP_FRAME_METHOD || type == AMQP_FRAME_HEADER ||
		type == AMQP_FRAME_BODY || type == AMQP_FRAME_HEARTBEAT;
}

static bool
decode_payload(Rest payload, amqp_pool_t *pool, amqp_frame_t *frame,
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
			if (!take_uint(&payload, 2, &class_id) ||
				!take_uint(&payload, 2, &weight) ||
				!take_uint(&payload, 8, &body_size))
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

static bool
decode_method(Rest payload, amqp_pool_t *pool, amqp_frame_t *frame,
			  char *error)
{
	amqp_method_t *method = &frame->payload.method;
	amqp_bytes_t arguments;
	uint64		id;
	int			status;

	if (!take_uint(&payload, METHOD_ID_BYTES, &id))
	{
		strlcpy(error, "protocol violation by the broker: malformed method",
				CQRS_DECODE_ERROR_BYTES);
		return false;
	}
	method->id = id;
	if (!is_needed(method->id))
		return true;

	arguments.bytes = unconstify(char *, payload.data);
	arguments.len = payload.length;
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
			return true;
		default:
			return false;
	}
}

/* Take bytes off the beginning.  Returns false if there are fewer. */
static bool
take(Rest *rest, Size length, const char **data)
{
	if (rest->length < length)
		return false;
	*data = rest->data;
	rest->data += length;
	rest->length -= length;
	return true;
}

/* Take a number of up to 8 bytes, in network byte order. */
static bool
take_uint(Rest *rest, Size length, uint64 *value)
{
	const char *data;

	if (!take(rest, length, &data))
		return false;
	*value = 0;
	for (Size i = 0; i < length; i++)
		*value = *value << 8 | (unsigned char) data[i];
	return true;
}

static bool
take_property(Rest *rest, PropertyType type, amqp_bytes_t *value)
{
	uint64		length = 1;
	const char *data;

	if ((type == PROPERTY_TEXT && !take_uint(rest, 1, &length)) ||
		(type == PROPERTY_TABLE && !take_uint(rest, 4, &length)) ||
		!take(rest, length, &data))
		return false;
	value->bytes = unconstify(char *, data);
	value->len = length;
	return true;
}
