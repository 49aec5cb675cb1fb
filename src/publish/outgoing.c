/*-------------------------------------------------------------------------
 *
 * outgoing.c
 *	  A message of the outbox, made ready for the broker.
 *
 * The outbox has messages in the encoding of the database; the broker gets
 * them in UTF-8.  If the encodings differ, the conversion can fail, so it runs
 * in a subtransaction.
 *
 * Belongs to the publisher alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "base/caught.h"
#include "base/guc.h"
#include "base/limits.h"
#include "broker/transport.h"
#include "publish/outgoing.h"

/* A message that is to be built, and what it becomes. */
typedef struct Building
{
	const CqrsMessage *message;
	MemoryContext context;
	CqrsOutgoing *outgoing;
} Building;

static bool is_too_large(const CqrsMessage *message, char **error);
static CqrsOutgoing *try_to_build(const CqrsMessage *message,
								  MemoryContext context, char **error);
static void do_build(void *arg);
static CqrsOutgoing *build(const CqrsMessage *message, MemoryContext context);
static int	find_properties(const CqrsMessage *message,
							CqrsProperty *properties, Size *size);
static char *to_utf8(const char *string);
static char *append_string(char **next, const char *string);

CqrsOutgoing *
cqrs_outgoing_build(const CqrsMessage *message, MemoryContext context,
					char **error)
{
	if (is_too_large(message, error))
		return NULL;
	return GetDatabaseEncoding() == PG_UTF8 ? build(message, context) :
		try_to_build(message, context, error);
}

/* Whether the broker of cqrs.url rejects a message because of its size. */
static bool
is_too_large(const CqrsMessage *message, char **error)
{
	const char *url = cqrs_guc_url();
	const CqrsTransport *transport = url != NULL ? cqrs_transport_of(url) : NULL;
	Size		size = 0;

	for (int i = 0; i < cqrs_message_nparts; i++)
	{
		const CqrsMessagePart *part = &cqrs_message_parts[i];

		if (part->type == CQRS_PART_JSON &&
			*cqrs_message_part_text(part, message) != NULL)
			size += strlen(*cqrs_message_part_text(part, message));
	}
	if (transport == NULL || size <= transport->max_body)
		return false;
	*error = psprintf("message of %zu bytes is larger than %zu bytes", size,
					  transport->max_body);
	return true;
}

/*
 * As build(), but returns NULL with the reason in *error if a text has
 * characters that UTF-8 does not have, or is too long.
 */
static CqrsOutgoing *
try_to_build(const CqrsMessage *message, MemoryContext context, char **error)
{
	Building	building = {.message = message,.context = context};
	ErrorData  *failure = cqrs_caught_run(do_build, &building);
	int			category;

	if (failure == NULL)
		return building.outgoing;
	category = ERRCODE_TO_CATEGORY(failure->sqlerrcode);
	if (category != ERRCODE_DATA_EXCEPTION &&
		category != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
		ReThrowError(failure);
	*error = failure->message;
	return NULL;
}

static void
do_build(void *arg)
{
	Building   *building = arg;

	building->outgoing = build(building->message, building->context);
}

/* Put a message together, in UTF-8 and in one piece of memory. */
static CqrsOutgoing *
build(const CqrsMessage *message, MemoryContext context)
{
	StringInfoData body;
	CqrsOutgoing *outgoing;
	char	   *text;
	char	   *key;
	char	   *exchange;
	char	   *next;
	int			expires_at;
	Size		text_length;
	Size		size;
	CqrsProperty *properties = palloc(sizeof(CqrsProperty) *
									  cqrs_message_nparts);
	int			nproperties = find_properties(message, properties, &size);

	initStringInfo(&body);
	cqrs_message_body(&body, message, &expires_at);
	text = pg_server_to_any(body.data, body.len, PG_UTF8);
	text_length = text == body.data ? body.len : strlen(text);

	/*
	 * The conversion may have changed the length of the text before
	 * "expires".
	 */
	if (text != body.data && expires_at >= 0)
	{
		body.data[expires_at] = '\0';
		expires_at = strlen(pg_server_to_any(body.data, expires_at, PG_UTF8));
	}

	key = to_utf8(cqrs_message_routing_key(message));
	exchange = to_utf8(message->exchange);
	if (strlen(key) > CQRS_SHORTSTR_BYTES ||
		(exchange != NULL && strlen(exchange) > CQRS_SHORTSTR_BYTES))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("routing key or exchange is longer than %d bytes in UTF-8",
						CQRS_SHORTSTR_BYTES)));

	size += offsetof(CqrsOutgoing, properties) + text_length + 1 +
		strlen(key) + 1 + strlen(message->cqrs_id) + 1 +
		(exchange != NULL ? strlen(exchange) + 1 : 0);
	outgoing = MemoryContextAllocHuge(context, size);
	next = (char *) &outgoing->properties[nproperties];
	outgoing->id = message->id;
	outgoing->committed_at = message->committed_at;
	outgoing->size = size;
	outgoing->cqrs_id = append_string(&next, message->cqrs_id);
	outgoing->exchange = append_string(&next, exchange);
	outgoing->routing_key = append_string(&next, key);
	outgoing->body = append_string(&next, text);
	outgoing->body_length = text_length;
	outgoing->expires_at = expires_at;
	outgoing->ttl_s = cqrs_message_ttl(message);
	outgoing->nproperties = nproperties;
	for (int i = 0; i < nproperties; i++)
	{
		outgoing->properties[i].name = properties[i].name;
		outgoing->properties[i].value = append_string(&next,
													  properties[i].value);
	}
	return outgoing;
}

/*
 * The parts of a message that it has as properties, in UTF-8.  What is too long
 * for a property is only in the body.  Returns their number; "size" is set to
 * the memory that they take.
 */
static int
find_properties(const CqrsMessage *message, CqrsProperty *properties,
				Size *size)
{
	int			count = 0;

	*size = 0;
	for (int i = 0; i < cqrs_message_nparts; i++)
	{
		const CqrsMessagePart *part = &cqrs_message_parts[i];
		const char *value;

		if (part->property == NULL)
			continue;
		value = to_utf8(*cqrs_message_part_text(part, message));
		if (value == NULL || strlen(value) > CQRS_SHORTSTR_BYTES)
			continue;
		properties[count].name = part->property;
		properties[count++].value = value;
		*size += sizeof(CqrsProperty) + strlen(value) + 1;
	}
	return count;
}

/* NULL stays NULL; the result may be the same string. */
static char *
to_utf8(const char *string)
{
	return string == NULL ? NULL :
		pg_server_to_any(string, strlen(string), PG_UTF8);
}

/*
 * Copy a string, unless it is NULL, to *next, and advance *next past the copy.
 */
static char *
append_string(char **next, const char *string)
{
	char	   *copy = *next;
	Size		size;

	if (string == NULL)
		return NULL;
	size = strlen(string) + 1;
	memcpy(copy, string, size);
	*next += size;
	return copy;
}
