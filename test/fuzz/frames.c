/*-------------------------------------------------------------------------
 *
 * frames.c
 *	  Any bytes as frames of a broker, for libFuzzer; "make fuzz" runs it.
 *
 * usage: frames [option of libFuzzer ...] [folder | file ...]
 *
 * A folder that comes first gets one input of each kind to begin with.
 *
 * Whatever the bytes are, nothing outside of them is read or returned, and
 * texts become strings that are valid, and have neither control characters nor
 * the password (I19, I20).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "broker/amqp_decode.h"
#include "broker/amqp_properties.h"
#include "broker/failure.h"
#include "fuzz.h"

#define MAX_SIZE	131072
#define PASSWORD	"s3cret"

static int	encoding = PG_UTF8;

int
GetDatabaseEncoding(void)
{
	return encoding;
}

static void
check_within(amqp_bytes_t part, const char *input, Size length)
{
	const char *bytes = part.bytes;

	CHECK(part.len == 0 ||
		  (bytes >= input && part.len <= length - (bytes - input)));
}

/* The string that a text becomes, with other bytes behind the text. */
static void
decode_before(char *buffer, Size size, amqp_bytes_t text, char behind)
{
	amqp_bytes_t copy = {text.len, malloc(text.len + 4)};

	memset(copy.bytes, behind, text.len + 4);
	memcpy(copy.bytes, text.bytes, text.len);
	cqrs_amqp_decode_text(buffer, size, copy);
	free(copy.bytes);
}

static void
check_text(amqp_bytes_t text)
{
	Size		sizes[] = {64, 5};

	for (int i = 0; i < lengthof(sizes); i++)
	{
		char		buffer[64];
		char		other[64];
		char	   *at = buffer;

		/* PostgreSQL's functions are not watched by AddressSanitizer. */
		decode_before(buffer, sizes[i], text, '\x80');
		decode_before(other, sizes[i], text, 'x');
		CHECK(strlen(at) < sizes[i] && strcmp(buffer, other) == 0);
		CHECK(strstr(buffer, PASSWORD) == NULL);
		while (*at != '\0')
		{
			int			size = encoding == PG_LATIN1 ? 1 :
			pg_encoding_mblen(PG_UTF8, at);

			CHECK((unsigned char) *at >= ' ' && *at != 0x7f);
			CHECK(size <= strlen(at));
			CHECK(encoding == PG_LATIN1 ? (unsigned char) *at < 0x80 :
				  pg_utf8_islegal((const unsigned char *) at, size));
			at += size;
		}
	}
}

static void
check_properties(amqp_bytes_t raw)
{
	/* So that AddressSanitizer knows where the properties end. */
	amqp_bytes_t copy = {raw.len, malloc(raw.len)};
	amqp_bytes_t id;

	memcpy(copy.bytes, raw.bytes, raw.len);
	if (cqrs_amqp_properties_message_id(copy, &id))
		check_within(id, copy.bytes, copy.len);
	free(copy.bytes);
}

static void
check_method(const amqp_method_t *method, const char *input, Size length)
{
	const amqp_channel_close_t *close = method->decoded;
	const amqp_connection_blocked_t *blocked = method->decoded;
	const amqp_basic_return_t *returned = method->decoded;

	if (method->decoded == NULL)
		return;
	switch (method->id)
	{
			/* What closes a connection has the same fields. */
		case AMQP_CHANNEL_CLOSE_METHOD:
		case AMQP_CONNECTION_CLOSE_METHOD:
			check_within(close->reply_text, input, length);
			check_text(close->reply_text);
			break;
		case AMQP_CONNECTION_BLOCKED_METHOD:
			check_within(blocked->reason, input, length);
			check_text(blocked->reason);
			break;
		case AMQP_BASIC_RETURN_METHOD:
			check_within(returned->exchange, input, length);
			check_within(returned->routing_key, input, length);
			check_text(returned->reply_text);
			break;
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
	const char *input = (const char *) data;
	char		error[CQRS_DECODE_ERROR_BYTES];
	amqp_pool_t pool;
	int			size = 1;

	/* The first byte says which encoding the database has. */
	if (length == 0)
		return 0;
	encoding = *input == 'L' ? PG_LATIN1 : PG_UTF8;
	input++;
	length--;
	cqrs_failure_hide("user", PASSWORD);
	init_amqp_pool(&pool, 4096);
	while (size > 0)
	{
		amqp_frame_t frame;

		size = cqrs_amqp_decode_frame(input, length, MAX_SIZE, &pool, &frame,
									  error);
		CHECK(size >= -1 && (size <= 0 || size <= length));
		if (size < 0)
			CHECK(strlen(error) < sizeof(error));
		if (size <= 0)
			break;
		if (frame.frame_type == AMQP_FRAME_METHOD)
			check_method(&frame.payload.method, input, size);
		else if (frame.frame_type == AMQP_FRAME_BODY)
			check_within(frame.payload.body_fragment, input, size);
		else if (frame.frame_type == AMQP_FRAME_HEADER)
		{
			check_within(frame.payload.properties.raw, input, size);
			check_properties(frame.payload.properties.raw);
		}
		recycle_amqp_pool(&pool);
		input += size;
		length -= size;
	}
	empty_amqp_pool(&pool);
	return 0;
}

/* ---- Inputs to begin with */

/* Append a frame; returns the end. */
static char *
put_frame(char *to, int type, const char *payload, uint32 length)
{
	uint32		size = pg_hton32(length);

	to[0] = type;
	to[1] = 0;
	to[2] = 1;
	memcpy(to + 3, &size, 4);
	memcpy(to + 7, payload, length);
	to[7 + length] = (char) AMQP_FRAME_END;
	return to + 8 + length;
}

static char *
put_method(char *to, amqp_method_number_t id, void *method)
{
	char		payload[512];
	uint32		big_endian = pg_hton32(id);
	amqp_bytes_t arguments = {sizeof(payload) - 4, payload + 4};

	memcpy(payload, &big_endian, 4);
	return put_frame(to, AMQP_FRAME_METHOD, payload,
					 4 + amqp_encode_method(id, method, arguments));
}

static char *
put_header(char *to)
{
	amqp_basic_properties_t properties = {
		._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_HEADERS_FLAG |
		AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG |
		AMQP_BASIC_MESSAGE_ID_FLAG,
		.content_type = amqp_cstring_bytes("text/plain"),
		.delivery_mode = 2,
		.correlation_id = amqp_cstring_bytes("c"),
		.message_id = amqp_cstring_bytes("identity:12345")
	};
	char		payload[512] = {0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5};
	amqp_bytes_t encoded = {sizeof(payload) - 12, payload + 12};

	return put_frame(to, AMQP_FRAME_HEADER, payload,
					 12 + amqp_encode_properties(60, &properties, encoded));
}

void
make_seeds(void)
{
	char		input[4096] = "U";
	char	   *end;
	amqp_connection_tune_t tune = {2047, MAX_SIZE, 60};
	amqp_basic_ack_t ack = {7, true};
	amqp_basic_nack_t nack = {8, false, false};
	amqp_connection_blocked_t blocked = {amqp_cstring_bytes("low on m\xc3\xa9mory")};
	amqp_channel_close_t close = {404, amqp_cstring_bytes("NOT_FOUND s3cret"), 60, 40};
	amqp_basic_return_t returned = {
		312, amqp_cstring_bytes("NO_ROUTE"), amqp_cstring_bytes("e"),
		amqp_cstring_bytes("k")
	};

	end = put_method(input + 1, AMQP_CONNECTION_TUNE_METHOD, &tune);
	end = put_frame(end, AMQP_FRAME_HEARTBEAT, "", 0);
	write_seed("open", input, end - input);
	end = put_method(input + 1, AMQP_BASIC_ACK_METHOD, &ack);
	end = put_method(end, AMQP_BASIC_NACK_METHOD, &nack);
	write_seed("confirms", input, end - input);
	end = put_method(input + 1, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
	end = put_method(end, AMQP_CHANNEL_CLOSE_METHOD, &close);
	write_seed("texts", input, end - input);
	end = put_method(input + 1, AMQP_BASIC_RETURN_METHOD, &returned);
	end = put_header(end);
	end = put_frame(end, AMQP_FRAME_BODY, "hello", 5);
	write_seed("returned", input, end - input);
}
