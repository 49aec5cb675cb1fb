/*-------------------------------------------------------------------------
 *
 * redis_envelope.c
 *	  The JSON in which Kombu wraps messages, read.
 *
 * PostgreSQL's parser is not used: it raises errors for JSON that is nested
 * too deep or has characters that the database's encoding lacks, and it copies
 * bodies.  An envelope can come from anybody who may write to the queue.  It
 * is walked once, without recursion, and only the texts that are needed are
 * decoded.  The rest of the envelope need not be valid: the outcome of the
 * message depends on its body, which is checked where it is used.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/evp.h>

#include "mb/pg_wchar.h"

#include "broker/failure.h"
#include "broker/redis_envelope.h"

/*
 * For a routing key, which is cut to that, and a message id; messages whose id
 * is longer have none.
 */
#define TEXT_BYTES		256
/* The deepest object that is looked into. */
#define MAX_DEPTH		3
/* The longest part of an envelope that distinguishes it from others. */
#define MARK_BYTES		256

/* A string in the JSON, without its quotes, not decoded; NULL: none. */
typedef struct Slice
{
	const char *start;
	const char *end;
} Slice;

typedef struct Parts
{
	Slice		body;
	Slice		body_encoding;
	Slice		routing_key;
	Slice		message_id;
	Slice		delivery_tag;
} Parts;

static bool find_parts(const char *json, const char *end, Parts *parts);
static Slice *part_of(Parts *parts, int depth, const Slice *keys);
static bool next_string(const char **at, const char *end, Slice *text);
static bool is(const Slice *text, const char *expected);
static Size unescape(char *to, Size size, const Slice *text);
static char *put_code(char *to, const char **at, const char *end);
static int	hex4(const char *digits, const char *end);
static void copy_text(char *to, const Slice *text, bool *valid);
static CqrsDelivery *make_delivery(MemoryContext context, Size size,
								   const Parts *parts);
static bool decode_base64(CqrsDelivery *delivery, const Slice *text);

CqrsDelivery *
cqrs_redis_envelope_read(MemoryContext context, const char *envelope, Size length,
						 const char **mark, Size *mark_length)
{
	Parts		parts = {0};
	CqrsDelivery *delivery;
	Size		size;

	*mark = envelope;
	*mark_length = Min(length, MARK_BYTES);
	if (find_parts(envelope, envelope + length, &parts))
	{
		if (parts.delivery_tag.start != NULL &&
			parts.delivery_tag.end > parts.delivery_tag.start)
		{
			*mark = parts.delivery_tag.start;
			*mark_length = Min(parts.delivery_tag.end -
							   parts.delivery_tag.start, MARK_BYTES);
		}
		size = parts.body.end - parts.body.start;
		delivery = make_delivery(context, size, &parts);
		if (delivery == NULL)
			return NULL;
		if (!is(&parts.body_encoding, "base64"))
		{
			delivery->length = unescape(delivery->body, size + 1, &parts.body);
			return delivery;
		}
		if (decode_base64(delivery, &parts.body))
			return delivery;
		pfree(delivery);
	}
	memset(&parts, 0, sizeof(parts));
	delivery = make_delivery(context, length, &parts);
	if (delivery != NULL)
	{
		memcpy(delivery->body, envelope, length);
		delivery->body[length] = '\0';
		delivery->length = length;
	}
	return delivery;
}

/*
 * Find the parts in an object.  A string that follows another one and a colon
 * is a value; the keys that lead to it are those of its object and of the
 * objects around it.
 */
static bool
find_parts(const char *json, const char *end, Parts *parts)
{
	Slice		keys[MAX_DEPTH] = {{0}};
	Slice		last = {0};
	bool		is_value = false;
	int			depth = 0;

	for (const char *at = json; at < end; at++)
	{
		if (*at == '"')
		{
			Slice	   *part;

			if (!next_string(&at, end, &last))
				return false;
			part = is_value ? part_of(parts, depth, keys) : NULL;
			if (part != NULL)
				*part = last;
			is_value = false;
		}
		else if (*at == ':')
		{
			if (depth >= 1 && depth <= MAX_DEPTH)
				keys[depth - 1] = last;
			is_value = true;
		}
		else if (*at == '{' || *at == '[')
		{
			depth++;
			if (depth <= MAX_DEPTH)
				memset(&keys[depth - 1], 0, sizeof(Slice));
			is_value = false;
		}
		else if (*at == '}' || *at == ']')
		{
			if (--depth < 0)
				return false;
			is_value = false;
		}
		else if (*at == ',')
			is_value = false;
	}
	return depth == 0 && parts->body.start != NULL;
}

/* The part that a value under these keys is, or NULL. */
static Slice *
part_of(Parts *parts, int depth, const Slice *keys)
{
	if (depth == 1 && is(&keys[0], "body"))
		return &parts->body;
	if (depth < 2 || !is(&keys[0], "properties"))
		return NULL;
	if (depth == 2 && is(&keys[1], "body_encoding"))
		return &parts->body_encoding;
	if (depth == 2 && is(&keys[1], "message_id"))
		return &parts->message_id;
	if (depth == 2 && is(&keys[1], "delivery_tag"))
		return &parts->delivery_tag;
	if (depth == 3 && is(&keys[1], "delivery_info") &&
		is(&keys[2], "routing_key"))
		return &parts->routing_key;
	return NULL;
}

/* Take the string whose quote is at *at; leave *at at the closing quote. */
static bool
next_string(const char **at, const char *end, Slice *text)
{
	const char *c = *at + 1;

	text->start = c;
	while (c < end && *c != '"')
		c += *c == '\\' ? 2 : 1;
	if (c >= end)
		return false;
	text->end = c;
	*at = c;
	return true;
}

static bool
is(const Slice *text, const char *expected)
{
	Size		length = strlen(expected);

	return text->start != NULL && text->end - text->start == length &&
		memcmp(text->start, expected, length) == 0;
}

/* Decode a string, into at most "size" bytes with a zero at the end. */
static Size
unescape(char *to, Size size, const Slice *text)
{
	char	   *start = to;
	const char *limit = to + size - 1;

	for (const char *c = text->start; c < text->end; c++)
	{
		char		decoded[8];
		char	   *next = decoded;

		if (*c != '\\')
			*next++ = *c;
		else if (*++c == 'u')
			next = put_code(decoded, &c, text->end);
		else
		{
			const char *special = strchr("b\bf\fn\nr\rt\t", *c);

			*next++ = special != NULL && *c > ' ' ? special[1] : *c;
		}
		if (to + (next - decoded) > limit)
			break;
		memcpy(to, decoded, next - decoded);
		to += next - decoded;
	}
	*to = '\0';
	return to - start;
}

/*
 * Append the character of \uXXXX, or of a pair of these; *at is left at the
 * last digit.  An invalid escape becomes a question mark.
 */
static char *
put_code(char *to, const char **at, const char *end)
{
	int			code = hex4(*at + 1, end);
	int			low = -1;

	if (code < 0)
	{
		*to = '?';
		return to + 1;
	}
	*at += 4;
	if (is_utf16_surrogate_first(code) && end - *at > 6 && (*at)[1] == '\\' &&
		(*at)[2] == 'u')
		low = hex4(*at + 3, end);
	if (low >= 0 && is_utf16_surrogate_second(low))
	{
		code = surrogate_pair_to_codepoint(code, low);
		*at += 6;
	}
	if (is_utf16_surrogate_first(code) || is_utf16_surrogate_second(code))
		code = '?';
	unicode_to_utf8(code, (unsigned char *) to);
	return to + pg_utf_mblen((unsigned char *) to);
}

/* The value of four hexadecimal digits, or -1. */
static int
hex4(const char *digits, const char *end)
{
	int			value = 0;

	if (end - digits < 4)
		return -1;
	for (int i = 0; i < 4; i++)
	{
		const char *all = "0123456789abcdef";
		const char *digit = strchr(all, pg_ascii_tolower(digits[i]));

		if (digit == NULL || *digit == '\0')
			return -1;
		value = value * 16 + (digit - all);
	}
	return value;
}

/*
 * Decode a short text, which is valid in the database's encoding then.  Of one
 * that is too long, more is decoded than can be copied, so it is not valid.
 */
static void
copy_text(char *to, const Slice *text, bool *valid)
{
	char		decoded[TEXT_BYTES + 4];
	Size		length = unescape(decoded, sizeof(decoded), text);

	cqrs_failure_clean(to, TEXT_BYTES, decoded, length);
	*valid = strlen(to) == length && memcmp(to, decoded, length) == 0;
}

/* A delivery with room for a body of "size" bytes. */
static CqrsDelivery *
make_delivery(MemoryContext context, Size size, const Parts *parts)
{
	CqrsDelivery *delivery =
	MemoryContextAllocExtended(context, sizeof(CqrsDelivery) +
							   2 * TEXT_BYTES + size + 4,
							   MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
	char	   *key;
	bool		valid;

	if (delivery == NULL)
		return NULL;
	memset(delivery, 0, sizeof(CqrsDelivery));
	key = (char *) (delivery + 1);
	delivery->routing_key = key;
	key[0] = '\0';
	delivery->body = key + 2 * TEXT_BYTES;
	if (parts->routing_key.start != NULL)
		(void) unescape(key, TEXT_BYTES, &parts->routing_key);
	if (parts->message_id.start != NULL)
	{
		copy_text(key + TEXT_BYTES, &parts->message_id, &valid);
		delivery->message_id = valid ? key + TEXT_BYTES : NULL;
	}
	return delivery;
}

/*
 * Decode the body.  Other encoders than Kombu's may have put a backslash
 * before slashes.
 */
static bool
decode_base64(CqrsDelivery *delivery, const Slice *text)
{
	const unsigned char *from = (const unsigned char *) text->start;
	Size		length = text->end - text->start;
	char	   *plain = NULL;
	int			decoded = -1;

	if (memchr(from, '\\', length) != NULL)
	{
		plain = MemoryContextAllocExtended(CurrentMemoryContext, length + 1,
										   MCXT_ALLOC_HUGE |
										   MCXT_ALLOC_NO_OOM);
		if (plain == NULL)
			return false;
		length = unescape(plain, length + 1, text);
		from = (unsigned char *) plain;
	}
	if (length % 4 == 0 && length <= INT_MAX)
		decoded = EVP_DecodeBlock((unsigned char *) delivery->body, from,
								  length);
	/* The function counts what is filled up with "=" as zeros. */
	for (Size i = length; decoded > 0 && i > 0 && length - i < 2 &&
		 from[i - 1] == '='; i--)
		decoded--;
	if (plain != NULL)
		pfree(plain);
	if (decoded < 0)
		return false;
	delivery->body[decoded] = '\0';
	delivery->length = decoded;
	return true;
}
