/*-------------------------------------------------------------------------
 *
 * redis_batch.c
 *	  Messages that are sent to a Redis server by one request.
 *
 * A request is written by hand into a buffer: the envelope of each message when
 * the message is added, and what comes before and behind them when the batch is
 * sealed (redis_request.c), as only then their number is known.  A body that is large is not
 * copied.  It is encoded part by part while the request is sent, and is the
 * last one of its batch; so memory is bounded whatever the size of the body.
 *
 * The envelope is Kombu's, with a message id, a time and the
 * properties of the message among its properties.  The delivery tag
 * ends with a part that differs between queues.  It is written for the queue that
 * the last messages went to; the script changes it for others.
 */
#include "postgres.h"

#include <openssl/evp.h>

#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "broker/redis_batch.h"

/* A body up to this size is copied. */
#define COPIED_BODY_BYTES	(48 * 1024)
/* More than a message with a copied body needs, and what is behind messages. */
#define ROOM_BYTES		(84 * 1024)
/* Bytes of a body that are encoded at once; a multiple of 3. */
#define CHUNK_BODY_BYTES	(48 * 1024)

/* A length that goes before an argument, at the most. */
#define LENGTH_BYTES	32

#define BEFORE_BODY		"{\"body\": \""

static void add_key(CqrsBatch *batch, const char *routing_key);
static void append(CqrsBatch *batch, const void *data, Size length);
static void append_length(CqrsBatch *batch, Size length);
static int	format_length(char *header, Size length);
static void set_common(CqrsBatchText *text, const CqrsEnvelope *envelope);
static void set_own(StringInfo own, const CqrsEnvelope *envelope);
static Size encoded_length(Size length);

CqrsBatch *
cqrs_redis_batch_create(MemoryContext context)
{
	CqrsBatch  *batch = MemoryContextAllocZero(context, sizeof(CqrsBatch));
	MemoryContext caller;

	batch->data = MemoryContextAlloc(context, CQRS_BATCH_DATA_BYTES);
	caller = MemoryContextSwitchTo(context);
	initStringInfo(&batch->keys);
	MemoryContextSwitchTo(caller);
	return batch;
}

void
cqrs_redis_batch_begin(CqrsBatch *batch, uint64 first_tag)
{
	batch->start = batch->end = CQRS_BATCH_HEADER_BYTES;
	resetStringInfo(&batch->keys);
	batch->nkeys = 0;
	batch->body = NULL;
	batch->count = 0;
	batch->first_tag = first_tag;
	batch->probe = false;
	batch->exchange[0] = batch->tail[0] = '\0';
}

bool
cqrs_redis_batch_has_room(const CqrsBatch *batch)
{
	return batch->count < CQRS_BATCH_MESSAGES && batch->body == NULL &&
		CQRS_BATCH_DATA_BYTES - batch->end >= ROOM_BYTES + batch->keys.len;
}

void
cqrs_redis_batch_add(CqrsBatch *batch, const CqrsEnvelope *envelope,
					 CqrsBatchText *text)
{
	Size		body_length = encoded_length(envelope->body_length);
	Size		id_length = strlen(envelope->message_id);

	Assert(cqrs_redis_batch_has_room(batch));
	if (batch->count == 0)
		strlcpy(batch->tail, text->tail[0] != '\0' ? text->tail : CQRS_BATCH_NO_TAIL,
				sizeof(batch->tail));
	strlcpy(batch->exchange, envelope->exchange, sizeof(batch->exchange));
	add_key(batch, envelope->routing_key);

	set_common(text, envelope);
	set_own(&text->own, envelope);
	append_length(batch, strlen(BEFORE_BODY) + body_length +
				  text->common.len + text->own.len + id_length +
				  strlen(batch->tail));
	append(batch, BEFORE_BODY, strlen(BEFORE_BODY));
	if (envelope->body_length > COPIED_BODY_BYTES)
	{
		batch->body = envelope->body;
		batch->body_length = envelope->body_length;
		batch->hole = batch->end;
	}
	else
		batch->end += EVP_EncodeBlock((unsigned char *) batch->data + batch->end,
									  (const unsigned char *) envelope->body,
									  envelope->body_length);
	append(batch, text->common.data, text->common.len);
	append(batch, text->own.data, text->own.len);
	batch->ids[batch->count] = batch->end;
	batch->id_lengths[batch->count] = id_length;
	append(batch, envelope->message_id, id_length);
	append(batch, batch->tail, strlen(batch->tail));
	append(batch, "\r\n", 2);
	batch->count++;
}

/* Almost always the key is the same as before. */
static void
add_key(CqrsBatch *batch, const char *routing_key)
{
	char		header[LENGTH_BYTES];
	int			length = strlen(routing_key);
	int			i = Min(batch->nkeys, CQRS_BATCH_KEYS) - 1;

	while (i >= 0 &&
		   (batch->key_lengths[i] != length ||
			memcmp(batch->keys.data + batch->key_at[i], routing_key, length) != 0))
		i--;
	appendBinaryStringInfo(&batch->keys, header, format_length(header, length));
	appendBinaryStringInfo(&batch->keys, routing_key, length);
	appendBinaryStringInfo(&batch->keys, "\r\n", 2);
	if (i >= 0)
		return;
	if (batch->nkeys < CQRS_BATCH_KEYS)
	{
		batch->key_at[batch->nkeys] = batch->keys.len - length - 2;
		batch->key_lengths[batch->nkeys] = length;
	}
	batch->nkeys++;
}

const char *
cqrs_redis_batch_next(CqrsBatch *batch, char *chunk, Size *length)
{
	bool		has_hole = batch->body != NULL &&
	batch->body_next < batch->body_length;
	Size		end = has_hole ? batch->hole : batch->stop;

	if (batch->next < end)
	{
		*length = end - batch->next;
		return batch->data + batch->next;
	}
	if (!has_hole)
		return NULL;
	if (batch->chunk_start == batch->chunk_end)
	{
		Size		rest = batch->body_length - batch->body_next;

		batch->chunk_start = 0;
		batch->chunk_end =
			EVP_EncodeBlock((unsigned char *) chunk,
							(const unsigned char *) batch->body + batch->body_next,
							Min(rest, CHUNK_BODY_BYTES));
	}
	*length = batch->chunk_end - batch->chunk_start;
	return chunk + batch->chunk_start;
}

int
cqrs_redis_batch_sent(const CqrsBatch *batch)
{
	int			sent = 0;

	while (sent < batch->ncommands && batch->ends[sent] <= batch->next)
		sent++;
	return sent;
}

void
cqrs_redis_batch_advance(CqrsBatch *batch, Size length)
{
	if (batch->chunk_start == batch->chunk_end)
	{
		batch->next += length;
		return;
	}
	batch->chunk_start += length;
	if (batch->chunk_start == batch->chunk_end)
	{
		batch->body_next += CHUNK_BODY_BYTES;
		batch->body_next = Min(batch->body_next, batch->body_length);
	}
}

static void
append(CqrsBatch *batch, const void *data, Size length)
{
	Assert(batch->end + length <= CQRS_BATCH_DATA_BYTES);
	memcpy(batch->data + batch->end, data, length);
	batch->end += length;
}

/* Append the length that goes before an argument. */
static void
append_length(CqrsBatch *batch, Size length)
{
	char		header[LENGTH_BYTES];

	append(batch, header, format_length(header, length));
}

/*
 * Write the length that goes before an argument to a text.  Returns the length
 * of the text.
 */
static int
format_length(char *header, Size length)
{
	int			digits = pg_ulltoa_n(length, header + 1);

	header[0] = '$';
	memcpy(header + 1 + digits, "\r\n", 2);
	return 1 + digits + 2;
}

/*
 * The text behind the body, which seldom differs from one message to the next.
 */
static void
set_common(CqrsBatchText *text, const CqrsEnvelope *envelope)
{
	int64		time = timestamptz_to_time_t(envelope->timestamp);

	if (text->time == time && strcmp(text->exchange, envelope->exchange) == 0 &&
		strcmp(text->routing_key, envelope->routing_key) == 0)
		return;
	strlcpy(text->exchange, envelope->exchange, sizeof(text->exchange));
	strlcpy(text->routing_key, envelope->routing_key,
			sizeof(text->routing_key));
	text->time = time;
	resetStringInfo(&text->common);
	appendStringInfoString(&text->common,
						   "\", \"content-encoding\": \"utf-8\", \"content-type\": \"text/plain\", \"headers\": {}, \"properties\": {\"delivery_mode\": 2, \"delivery_info\": {\"exchange\": ");
	escape_json(&text->common, envelope->exchange);
	appendStringInfoString(&text->common, ", \"routing_key\": ");
	escape_json(&text->common, envelope->routing_key);
	appendStringInfo(&text->common,
					 "}, \"priority\": 0, \"body_encoding\": \"base64\", \"timestamp\": " INT64_FORMAT ", \"message_id\": ",
					 time);
}

/*
 * The text between the common text and the id of the message in the delivery
 * tag.
 */
static void
set_own(StringInfo own, const CqrsEnvelope *envelope)
{
	resetStringInfo(own);
	escape_json(own, envelope->message_id);
	for (int i = 0; i < envelope->nproperties; i++)
	{
		appendStringInfoString(own, ", \"");
		appendStringInfoString(own, envelope->properties[i].name);
		appendStringInfoString(own, "\": ");
		escape_json(own, envelope->properties[i].value);
	}
	appendStringInfoString(own, ", \"delivery_tag\": \"");
}

/* The length of so many bytes in Base64. */
static Size
encoded_length(Size length)
{
	return (length + 2) / 3 * 4;
}
