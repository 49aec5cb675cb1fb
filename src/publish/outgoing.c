/*-------------------------------------------------------------------------
 *
 * outgoing.c
 *	  A message of the outbox, made ready for the broker.
 *
 * The outbox has messages in the encoding of the database; the broker gets
 * them in UTF-8.  Where the encoding is another one, the conversion can fail,
 * and does so in a subtransaction.
 *
 * Belongs to the publisher alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "base/exchange.h"
#include "base/guc.h"
#include "broker/transport.h"
#include "publish/outgoing.h"

static bool is_too_large(const CqrsMessage *message, char **error);
static CqrsOutgoing *try_to_build(const CqrsMessage *message,
								  MemoryContext context, char **error);
static CqrsOutgoing *build(const CqrsMessage *message, MemoryContext context);
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

/* Whether the broker of cqrs.url refuses a message for its size. */
static bool
is_too_large(const CqrsMessage *message, char **error)
{
	const char *url = cqrs_guc_url();
	const CqrsTransport *transport = url != NULL ? cqrs_transport_of(url) : NULL;
	Size		size = strlen(message->instance_data) +
	strlen(message->instance_pk);

	if (message->previous_data != NULL)
		size += strlen(message->previous_data);
	if (message->meta != NULL)
		size += strlen(message->meta);
	if (transport == NULL || size <= transport->max_body)
		return false;
	*error = psprintf("message of %zu bytes is larger than %zu bytes", size,
					  transport->max_body);
	return true;
}

/*
 * As build(), but NULL with the reason in *error when there are characters
 * that UTF-8 does not have, or too many.
 */
static CqrsOutgoing *
try_to_build(const CqrsMessage *message, MemoryContext context, char **error)
{
	CqrsOutgoing *volatile outgoing = NULL;
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		outgoing = build(message, context);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *failure;
		int			category;

		MemoryContextSwitchTo(caller);
		failure = CopyErrorData();
		category = ERRCODE_TO_CATEGORY(failure->sqlerrcode);
		if (category != ERRCODE_DATA_EXCEPTION &&
			category != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		*error = failure->message;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return outgoing;
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
	char	   *correlation_id = NULL;
	char	   *next;
	int			expires_at;
	Size		text_length;
	Size		size;

	initStringInfo(&body);
	cqrs_message_body(&body, message, &expires_at);
	text = pg_server_to_any(body.data, body.len, PG_UTF8);

	text_length = strlen(text);
	/* What comes before "expires" may have changed its length. */
	if (text !=body.data && expires_at >= 0)
	{
		body.data[expires_at] = '\0';
		expires_at = strlen(pg_server_to_any(body.data, expires_at, PG_UTF8));
	}

	key = to_utf8(cqrs_message_routing_key(message));
	exchange = to_utf8(message->exchange);
	correlation_id = to_utf8(message->correlation_id);
	if (strlen(key) > CQRS_SHORTSTR_BYTES ||
		(exchange != NULL && strlen(exchange) > CQRS_SHORTSTR_BYTES))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("routing key or exchange is longer than %d bytes in UTF-8",
						CQRS_SHORTSTR_BYTES)));
	/* Too long for the property; the body has it all the same. */
	if (correlation_id != NULL && strlen(correlation_id) > CQRS_SHORTSTR_BYTES)
		correlation_id = NULL;

	size = sizeof(CqrsOutgoing) + text_length + 1 + strlen(key) + 1 +
		strlen(message->cqrs_id) + 1 +
		(exchange != NULL ? strlen(exchange) + 1 : 0) +
		(correlation_id != NULL ? strlen(correlation_id) + 1 : 0);
	outgoing = MemoryContextAllocHuge(context, size);
	next = (char *) (outgoing + 1);
	outgoing->id = message->id;
	outgoing->committed_at = message->committed_at;
	outgoing->size = size;
	outgoing->cqrs_id = append_string(&next, message->cqrs_id);
	outgoing->exchange = append_string(&next, exchange);
	outgoing->routing_key = append_string(&next, key);
	outgoing->correlation_id = append_string(&next, correlation_id);
	outgoing->body = append_string(&next, text);
	outgoing->body_length = text_length;
	outgoing->expires_at = expires_at;
	outgoing->ttl_s = cqrs_message_ttl(message);
	return outgoing;
}

static char *
to_utf8(const char *string)
{
	return string == NULL ? NULL :
		pg_server_to_any(string, strlen(string), PG_UTF8);
}

/* Copy a string, unless it is NULL, to *next, and move that behind it. */
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
