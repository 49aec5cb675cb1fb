/*-------------------------------------------------------------------------
 *
 * redis_batch.c
 *	  Messages that are sent to a Redis server by one request.
 *
 * A request is written by hand into a buffer: the arguments of each message
 * when the message is added, and what comes before them when the batch is
 * sealed, as only then their number is known.  A body that is large is not
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

#include "utils/json.h"
#include "utils/timestamp.h"

#include "broker/failure.h"
#include "broker/redis_batch.h"
#include "broker/redis_scripts.h"

/* Room for what comes before the messages, the script included. */
#define HEADER_BYTES	(8 * 1024)
#define DATA_BYTES		(264 * 1024)
/* A body up to this size is copied. */
#define COPIED_BODY_BYTES	(48 * 1024)
/* More than a message with a copied body needs. */
#define ROOM_BYTES		(80 * 1024)
/* More than the command that counts replicas has. */
#define WAIT_BYTES		80
/* Bytes of a body that are encoded at once; a multiple of 3. */
#define CHUNK_BODY_BYTES	(48 * 1024)

#define BEFORE_BODY		"{\"body\": \""
#define BINDINGS_PREFIX "_kombu.binding."
/* The end of an envelope, of no queue; and how many digits it has. */
#define NO_TAIL			"-00000000\"}}"
#define TAIL_DIGITS		8

static bool take_tail(CqrsBatch *batch, const CqrsReply *tail);
static void append(CqrsBatch *batch, const void *data, Size length);
static void append_length(CqrsBatch *batch, Size length);
static void append_argument(CqrsBatch *batch, const char *text);
static void set_common(CqrsBatchText *text, const CqrsEnvelope *envelope);
static void set_own(StringInfo own, const CqrsEnvelope *envelope);
static Size encoded_length(Size length);
static Size put_wait(char *to, const CqrsBatchOwner *owner);
static const char *script_hash(void);
static void put_argument(StringInfo buffer, const char *text);

CqrsBatch *
cqrs_redis_batch_create(MemoryContext context)
{
	CqrsBatch  *batch = MemoryContextAllocZero(context, sizeof(CqrsBatch));

	batch->data = MemoryContextAlloc(context, DATA_BYTES);
	return batch;
}

void
cqrs_redis_batch_begin(CqrsBatch *batch, uint64 first_tag)
{
	batch->start = batch->end = HEADER_BYTES;
	batch->body = NULL;
	batch->count = 0;
	batch->first_tag = first_tag;
	batch->probe = false;
	batch->exchange[0] = batch->tail[0] = '\0';
	batch->answered = false;
}

bool
cqrs_redis_batch_has_room(const CqrsBatch *batch)
{
	return batch->count < CQRS_BATCH_MESSAGES && batch->body == NULL &&
		DATA_BYTES - batch->end >= ROOM_BYTES;
}

void
cqrs_redis_batch_add(CqrsBatch *batch, const CqrsEnvelope *envelope,
			   CqrsBatchText *text)
{
	Size		body_length = encoded_length(envelope->body_length);
	Size		id_length = strlen(envelope->message_id);

	Assert(cqrs_redis_batch_has_room(batch));
	if (batch->count == 0)
		strlcpy(batch->tail, text->tail[0] != '\0' ? text->tail : NO_TAIL,
				sizeof(batch->tail));
	strlcpy(batch->exchange, envelope->exchange, sizeof(batch->exchange));
	append_argument(batch, envelope->routing_key);

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

void
cqrs_redis_batch_seal(CqrsBatch *batch, const CqrsBatchOwner *owner, uint64 number,
				bool by_text)
{
	StringInfoData header;
	char		text[32];
	char	   *bindings = psprintf("%s%s", BINDINGS_PREFIX, batch->exchange);

	initStringInfo(&header);
	appendStringInfo(&header, "*%d\r\n", 11 + 2 * batch->count);
	put_argument(&header, by_text ? "EVAL" : "EVALSHA");
	put_argument(&header, by_text ? CQRS_SCRIPT_PUBLISH : script_hash());
	put_argument(&header, "2");
	put_argument(&header, bindings);
	put_argument(&header, owner->lease);
	put_argument(&header, owner->token);
	snprintf(text, sizeof(text), "%d", owner->lease_ms);
	put_argument(&header, text);
	snprintf(text, sizeof(text), UINT64_FORMAT, number);
	put_argument(&header, text);
	put_argument(&header, batch->probe ? "probe" : "");
	snprintf(text, sizeof(text), "%d", owner->queue_limit);
	put_argument(&header, text);
	put_argument(&header, batch->tail);

	Assert(header.len <= HEADER_BYTES);
	batch->start = HEADER_BYTES - header.len;
	memcpy(batch->data + batch->start, header.data, header.len);
	pfree(header.data);
	pfree(bindings);

	batch->stop = batch->end;
	if (owner->replicas > 0)
		batch->stop += put_wait(batch->data + batch->end, owner);
	Assert(batch->stop <= DATA_BYTES);

	batch->next = batch->start;
	batch->body_next = 0;
	batch->chunk_start = batch->chunk_end = 0;
	batch->answered = false;
	batch->done = batch->told = batch->settled = 0;
	batch->stopped = false;
	batch->right_tail[0] = '\0';
	batch->limited = owner->queue_limit > 0;
	batch->error[0] = '\0';
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

bool
cqrs_redis_batch_script_sent(const CqrsBatch *batch)
{
	return batch->next >= batch->end;
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

bool
cqrs_redis_batch_answer(CqrsBatch *batch, const CqrsReply *reply)
{
	batch->answered = true;
	if (reply->type == CQRS_REPLY_ERROR)
	{
		cqrs_failure_clean(batch->error, sizeof(batch->error), reply->text,
						   reply->length);
		return batch->error[0] != '\0';
	}
	if (reply->type != CQRS_REPLY_ARRAY ||
		reply->nelements > batch->count + 1)
		return false;
	for (int i = 0; i < reply->nelements; i++)
	{
		const CqrsReply *element = &reply->elements[i];

		if (i == batch->count)
			return batch->count > 0 && take_tail(batch, element);
		if (element->type == CQRS_REPLY_ERROR)
		{
			cqrs_failure_clean(batch->error, sizeof(batch->error),
							   element->text, element->length);
			batch->stopped = true;
			return i == reply->nelements - 1 && batch->error[0] != '\0';
		}
		if (element->type == CQRS_REPLY_TEXT && batch->limited)
		{
			batch->outcomes[i] = CQRS_OUTCOME_REFUSED;
			cqrs_failure_clean(batch->full, sizeof(batch->full),
							   element->text, element->length);
		}
		else if (element->type == CQRS_REPLY_INTEGER && element->integer >= 0)
			batch->outcomes[i] = element->integer == 0 ?
				CQRS_OUTCOME_UNROUTABLE : CQRS_OUTCOME_TAKEN;
		else
			return false;
		batch->done++;
	}
	return batch->done == batch->count;
}

/* Returns false if it is none. */
static bool
take_tail(CqrsBatch *batch, const CqrsReply *tail)
{
	if (tail->type != CQRS_REPLY_TEXT || tail->length != strlen(NO_TAIL) ||
		tail->text[0] != '-' ||
		strspn(tail->text + 1, "0123456789abcdef") != TAIL_DIGITS ||
		strcmp(tail->text + 1 + TAIL_DIGITS, &NO_TAIL[1 + TAIL_DIGITS]) != 0)
		return false;
	strlcpy(batch->right_tail, tail->text, sizeof(batch->right_tail));
	return true;
}

static void
append(CqrsBatch *batch, const void *data, Size length)
{
	Assert(batch->end + length <= DATA_BYTES);
	memcpy(batch->data + batch->end, data, length);
	batch->end += length;
}

/* Append the length that goes before an argument. */
static void
append_length(CqrsBatch *batch, Size length)
{
	char		text[32];
	int			written = snprintf(text, sizeof(text), "$%zu\r\n", length);

	append(batch, text, written);
}

static void
append_argument(CqrsBatch *batch, const char *text)
{
	Size		length = strlen(text);

	append_length(batch, length);
	append(batch, text, length);
	append(batch, "\r\n", 2);
}

/* What follows the body, and seldom differs from one message to the next. */
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

/* What is between that and the id of the message in the delivery tag. */
static void
set_own(StringInfo own, const CqrsEnvelope *envelope)
{
	resetStringInfo(own);
	escape_json(own, envelope->message_id);
	for (int i = 0; i < envelope->nproperties; i++)
	{
		appendStringInfo(own, ", \"%s\": ", envelope->properties[i].name);
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

/* The command that counts replicas; returns its length. */
static Size
put_wait(char *to, const CqrsBatchOwner *owner)
{
	char		replicas[16];
	char		ms[16];
	Size		nreplicas = snprintf(replicas, sizeof(replicas), "%d",
									 owner->replicas);
	Size		nms = snprintf(ms, sizeof(ms), "%d", owner->replicas_ms);

	return snprintf(to, WAIT_BYTES,
					"*3\r\n$4\r\nWAIT\r\n$%zu\r\n%s\r\n$%zu\r\n%s\r\n",
					nreplicas, replicas, nms, ms);
}

/* The SHA-1 of the script, by which the server knows the script. */
static const char *
script_hash(void)
{
	static char text[41];

	if (text[0] == '\0')
	{
		unsigned char hash[EVP_MAX_MD_SIZE] = {0};

		(void) EVP_Digest(CQRS_SCRIPT_PUBLISH, strlen(CQRS_SCRIPT_PUBLISH),
						  hash, NULL, EVP_sha1(), NULL);
		for (int i = 0; i < 20; i++)
			snprintf(text + 2 * i, 3, "%02x", hash[i]);
	}
	return text;
}

static void
put_argument(StringInfo buffer, const char *text)
{
	appendStringInfo(buffer, "$%zu\r\n%s\r\n", strlen(text), text);
}
