/*-------------------------------------------------------------------------
 *
 * amqp_properties.c
 *	  What is needed of properties and tables that a broker sends.
 *
 * Like amqp_decode.c, nothing here relies on the input, raises an error or
 * keeps anything.  Of a table only its own fields are looked at.  Tables and
 * arrays in it are skipped, whatever they contain, so their depth is no matter.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "broker/amqp_properties.h"
#include "broker/amqp_rest.h"

typedef enum PropertyType
{
	PROPERTY_OCTET,
	PROPERTY_TEXT,				/* a byte with its length, and the text */
	PROPERTY_TABLE				/* four bytes with its length, and the table */
} PropertyType;

/* The first properties of class basic, in their order. */
static const struct
{
	uint16		flag;
	PropertyType type;
}			properties_of_basic[] =

{
	{AMQP_BASIC_CONTENT_TYPE_FLAG, PROPERTY_TEXT},
	{AMQP_BASIC_CONTENT_ENCODING_FLAG, PROPERTY_TEXT},
	{AMQP_BASIC_HEADERS_FLAG, PROPERTY_TABLE},
	{AMQP_BASIC_DELIVERY_MODE_FLAG, PROPERTY_OCTET},
	{AMQP_BASIC_PRIORITY_FLAG, PROPERTY_OCTET},
	{AMQP_BASIC_CORRELATION_ID_FLAG, PROPERTY_TEXT},
	{AMQP_BASIC_REPLY_TO_FLAG, PROPERTY_TEXT},
	{AMQP_BASIC_EXPIRATION_FLAG, PROPERTY_TEXT},
	{AMQP_BASIC_MESSAGE_ID_FLAG, PROPERTY_TEXT}
};

static bool find_property(amqp_bytes_t properties, uint16 flag,
						  CqrsRest *value);
static bool find_field(CqrsRest table, const char *name, char *kind,
					   CqrsRest *value);
static bool take_field(CqrsRest *rest, char kind, CqrsRest *value);
static int	field_width(char kind);
static bool is(CqrsRest value, const char *text);

bool
cqrs_amqp_properties_message_id(amqp_bytes_t properties,
								amqp_bytes_t *message_id)
{
	CqrsRest	value;

	if (!find_property(properties, AMQP_BASIC_MESSAGE_ID_FLAG, &value))
		return false;
	message_id->bytes = unconstify(char *, value.data);
	message_id->len = value.length;
	return true;
}

int64
cqrs_amqp_properties_delivery_count(amqp_bytes_t properties)
{
	CqrsRest	headers;
	CqrsRest	value;
	uint64		count;
	char		kind;

	if (!find_property(properties, AMQP_BASIC_HEADERS_FLAG, &headers) ||
		!find_field(headers, "x-delivery-count", &kind, &value) ||
		strchr("bBsuIilL", kind) == NULL ||
		!cqrs_rest_uint(&value, value.length, &count))
		return 0;
	return Min(count, PG_INT64_MAX);
}

int
cqrs_amqp_properties_version(const amqp_bytes_t *arguments)
{
	CqrsRest	rest = {0};
	CqrsRest	properties;
	CqrsRest	value;
	const char *skipped;
	const char *digit;
	char		kind;
	int			version = 0;

	if (arguments != NULL)
	{
		rest.data = arguments->bytes;
		rest.length = arguments->len;
	}
	/* The version of the protocol is before the properties. */
	if (!cqrs_rest_take(&rest, 2, &skipped) ||
		!cqrs_rest_counted(&rest, 4, &properties) ||
		!find_field(properties, "product", &kind, &value) ||
		kind != AMQP_FIELD_KIND_UTF8 || !is(value, "RabbitMQ") ||
		!find_field(properties, "version", &kind, &value) ||
		kind != AMQP_FIELD_KIND_UTF8)
		return 0;
	for (int part = 0; part < 2; part++)
	{
		int			number = 0;

		while (cqrs_rest_take(&value, 1, &digit) && *digit >= '0' &&
			   *digit <= '9')
			number = Min(number * 10 + (*digit - '0'), 999);
		version = version * 1000 + number;
	}
	return version;
}

/* Returns false if the property is missing, or if one up to it is malformed. */
static bool
find_property(amqp_bytes_t properties, uint16 flag, CqrsRest *value)
{
	CqrsRest	rest = {properties.bytes, properties.len};
	uint64		flags;

	/* Bit 0 would say that more flags follow; class basic has none. */
	if (!cqrs_rest_uint(&rest, 2, &flags) || (flags & 1) != 0 ||
		(flags & flag) == 0)
		return false;
	for (int i = 0; i < lengthof(properties_of_basic); i++)
	{
		PropertyType type = properties_of_basic[i].type;

		if ((flags & properties_of_basic[i].flag) == 0)
			continue;
		if (type == PROPERTY_OCTET)
		{
			value->length = 1;
			if (!cqrs_rest_take(&rest, 1, &value->data))
				return false;
		}
		else if (!cqrs_rest_counted(&rest, type == PROPERTY_TEXT ? 1 : 4,
									value))
			return false;
		if (properties_of_basic[i].flag == flag)
			return true;
	}
	return false;
}

/* Returns false if the field is missing, or if one up to it is malformed. */
static bool
find_field(CqrsRest table, const char *name, char *kind, CqrsRest *value)
{
	CqrsRest	key;
	const char *tag;

	while (cqrs_rest_counted(&table, 1, &key) &&
		   cqrs_rest_take(&table, 1, &tag))
	{
		*kind = *tag;
		if (!take_field(&table, *kind, value))
			return false;
		if (is(key, name))
			return true;
	}
	return false;
}

/* Take the value of a field of that kind.  Returns false if it is malformed. */
static bool
take_field(CqrsRest *rest, char kind, CqrsRest *value)
{
	int			width = field_width(kind);

	if (kind == AMQP_FIELD_KIND_UTF8 || kind == AMQP_FIELD_KIND_BYTES ||
		kind == AMQP_FIELD_KIND_TABLE || kind == AMQP_FIELD_KIND_ARRAY)
		return cqrs_rest_counted(rest, 4, value);
	value->length = Max(width, 0);
	return width >= 0 && cqrs_rest_take(rest, width, &value->data);
}

/* The bytes of a field without a length of its own; -1 for other kinds. */
static int
field_width(char kind)
{
	switch (kind)
	{
		case AMQP_FIELD_KIND_VOID:
			return 0;
		case AMQP_FIELD_KIND_BOOLEAN:
		case AMQP_FIELD_KIND_I8:
		case AMQP_FIELD_KIND_U8:
			return 1;
		case AMQP_FIELD_KIND_I16:
		case AMQP_FIELD_KIND_U16:
			return 2;
		case AMQP_FIELD_KIND_I32:
		case AMQP_FIELD_KIND_U32:
		case AMQP_FIELD_KIND_F32:
			return 4;
		case AMQP_FIELD_KIND_DECIMAL:
			return 5;
		case AMQP_FIELD_KIND_I64:
		case AMQP_FIELD_KIND_U64:
		case AMQP_FIELD_KIND_F64:
		case AMQP_FIELD_KIND_TIMESTAMP:
			return 8;
		default:
			return -1;
	}
}

static bool
is(CqrsRest value, const char *text)
{
	return value.length == strlen(text) &&
		memcmp(value.data, text, value.length) == 0;
}
