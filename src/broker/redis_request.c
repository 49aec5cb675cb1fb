/*-------------------------------------------------------------------------
 *
 * redis_request.c
 *	  The request that sends a batch to a Redis server, and how messages were
 *	  routed.
 *
 * There are two requests with the same effect.  The publishing script routes
 * each message, and gives each back to the server to push it, which costs the
 * server as much again as the push.  So the publishing script also reports if
 * all messages went to one queue.  From then on messages with the same routing
 * keys are sent directly, by a transaction.  It pushes them, and ends with a
 * script that checks whether the publishing script would have done the same,
 * and undoes the push if not.  After an undo the batch is sent again by the
 * publishing script, so only the publishing script's result is final.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/evp.h>

#include "broker/redis_batch.h"
#include "broker/redis_scripts.h"

#define BINDINGS_PREFIX "_kombu.binding."
#define MULTI			"*1\r\n$5\r\nMULTI\r\n"
#define EXEC			"*1\r\n$4\r\nEXEC\r\n"

static bool is_direct(const CqrsBatch *batch, const CqrsBatchOwner *owner,
					  const CqrsBatchRoute *route);
static bool has_key(const CqrsBatchRoute *route, const char *key, int length);
static void put_script(StringInfo header, const CqrsBatch *batch,
					   const CqrsBatchOwner *owner, uint64 number,
					   bool by_text);
static void put_verify(StringInfo trailer, const CqrsBatch *batch,
					   const CqrsBatchOwner *owner,
					   const CqrsBatchRoute *route, uint64 number);
static void put_bindings(StringInfo buffer, const CqrsBatch *batch);
static void end_command(CqrsBatch *batch, Size at);
static void put_wait(StringInfo buffer, const CqrsBatchOwner *owner);
static const char *script_hash(void);
static void put_argument(StringInfo buffer, const char *text);
static void put_number(StringInfo buffer, uint64 number);

void
cqrs_redis_batch_seal(CqrsBatch *batch, const CqrsBatchOwner *owner,
					  const CqrsBatchRoute *route, uint64 number, bool by_text)
{
	StringInfoData header;
	StringInfoData trailer;

	StaticAssertStmt(sizeof(CQRS_SCRIPT_PUBLISH) + 2048 <= CQRS_BATCH_HEADER_BYTES,
					 "the script must fit into the header");
	initStringInfo(&header);
	initStringInfo(&trailer);
	batch->ncommands = 0;
	batch->direct = is_direct(batch, owner, route);
	if (batch->direct)
	{
		appendStringInfo(&header, MULTI "*%d\r\n", 2 + batch->count);
		put_argument(&header, "LPUSH");
		put_argument(&header, route->queue);
	}
	else
		put_script(&header, batch, owner, number, by_text);
	Assert(header.len <= CQRS_BATCH_HEADER_BYTES);
	batch->start = CQRS_BATCH_HEADER_BYTES - header.len;
	memcpy(batch->data + batch->start, header.data, header.len);

	if (batch->direct)
	{
		end_command(batch, batch->start + strlen(MULTI));
		end_command(batch, batch->end);
		put_verify(&trailer, batch, owner, route, number);
		end_command(batch, batch->end + trailer.len);
		appendStringInfoString(&trailer, EXEC);
	}
	else
		appendBinaryStringInfo(&trailer, batch->keys.data, batch->keys.len);
	end_command(batch, batch->end + trailer.len);
	if (owner->replicas > 0)
	{
		put_wait(&trailer, owner);
		end_command(batch, batch->end + trailer.len);
	}
	batch->stop = batch->end + trailer.len;
	Assert(batch->stop <= CQRS_BATCH_DATA_BYTES);
	memcpy(batch->data + batch->end, trailer.data, trailer.len);
	pfree(header.data);
	pfree(trailer.data);

	batch->next = batch->start;
	batch->body_next = 0;
	batch->chunk_start = batch->chunk_end = 0;
	batch->replied = 0;
	batch->done = batch->told = batch->settled = 0;
	batch->stopped = false;
	batch->right_tail[0] = batch->queue[0] = '\0';
	batch->limited = owner->queue_limit > 0;
	batch->error[0] = '\0';
}

/* Whether the route is that of all messages. */
static bool
is_direct(const CqrsBatch *batch, const CqrsBatchOwner *owner,
		  const CqrsBatchRoute *route)
{
	if (!owner->transactions || batch->probe || batch->count == 0 ||
		batch->nkeys > CQRS_BATCH_KEYS || route->queue[0] == '\0' ||
		strcmp(route->exchange, batch->exchange) != 0 ||
		strcmp(route->tail, batch->tail) != 0)
		return false;
	for (int i = 0; i < batch->nkeys; i++)
	{
		if (!has_key(route, batch->keys.data + batch->key_at[i],
					 batch->key_lengths[i]))
			return false;
	}
	return true;
}

/* Whether the route has a routing key of that many bytes. */
static bool
has_key(const CqrsBatchRoute *route, const char *key, int length)
{
	for (int i = 0; i < Min(route->nkeys, CQRS_ROUTE_KEYS); i++)
	{
		if (strncmp(route->keys[i], key, length) == 0 &&
			route->keys[i][length] == '\0')
			return true;
	}
	return false;
}

void
cqrs_redis_route_learn(CqrsBatchRoute *route, const CqrsBatch *batch)
{
	if (batch->queue[0] == '\0' || batch->probe ||
		batch->nkeys > CQRS_BATCH_KEYS)
		return;
	if (strcmp(route->exchange, batch->exchange) != 0 ||
		strcmp(route->queue, batch->queue) != 0 ||
		strcmp(route->bindings, batch->bindings) != 0)
	{
		strlcpy(route->exchange, batch->exchange, sizeof(route->exchange));
		strlcpy(route->queue, batch->queue, sizeof(route->queue));
		strlcpy(route->tail, batch->right_tail, sizeof(route->tail));
		strlcpy(route->bindings, batch->bindings, sizeof(route->bindings));
		route->nkeys = 0;
	}
	for (int i = 0; i < batch->nkeys; i++)
	{
		const char *key = batch->keys.data + batch->key_at[i];
		int			length = batch->key_lengths[i];

		/* The oldest is forgotten. */
		if (!has_key(route, key, length) && length < sizeof(route->keys[0]))
			strlcpy(route->keys[route->nkeys++ % CQRS_ROUTE_KEYS], key,
					length + 1);
	}
}

/* The request by the script, up to the envelopes. */
static void
put_script(StringInfo header, const CqrsBatch *batch,
		   const CqrsBatchOwner *owner, uint64 number, bool by_text)
{
	appendStringInfo(header, "*%d\r\n", 11 + 2 * batch->count);
	put_argument(header, by_text ? "EVAL" : "EVALSHA");
	put_argument(header, by_text ? CQRS_SCRIPT_PUBLISH : script_hash());
	put_argument(header, "2");
	put_bindings(header, batch);
	put_argument(header, owner->lease);
	put_argument(header, owner->token);
	put_number(header, owner->lease_ms);
	put_number(header, number);
	put_argument(header, batch->probe ? "probe" : "");
	put_number(header, owner->queue_limit);
	put_argument(header, batch->tail);
}

/*
 * The script that may undo the push.  It is sent as text: if the server did
 * not know the script by its hash, the push would stay as it is.
 */
static void
put_verify(StringInfo trailer, const CqrsBatch *batch,
		   const CqrsBatchOwner *owner, const CqrsBatchRoute *route,
		   uint64 number)
{
	Size		last_end = batch->ids[batch->count - 1];
	Size		length = batch->end - strlen("\r\n") - last_end;

	appendStringInfoString(trailer, "*13\r\n");
	put_argument(trailer, "EVAL");
	put_argument(trailer, CQRS_SCRIPT_VERIFY);
	put_argument(trailer, "3");
	put_bindings(trailer, batch);
	put_argument(trailer, owner->lease);
	put_argument(trailer, route->queue);
	put_argument(trailer, owner->token);
	put_number(trailer, owner->lease_ms);
	put_number(trailer, number);
	put_argument(trailer, route->bindings);
	put_number(trailer, owner->queue_limit);
	put_number(trailer, batch->count);
	appendStringInfo(trailer, "$%zu\r\n", length);
	appendBinaryStringInfo(trailer, batch->data + last_end, length);
	appendStringInfoString(trailer, "\r\n");
}

/* The key of the set of bindings. */
static void
put_bindings(StringInfo buffer, const CqrsBatch *batch)
{
	appendStringInfo(buffer, "$%zu\r\n" BINDINGS_PREFIX "%s\r\n",
					 strlen(BINDINGS_PREFIX) + strlen(batch->exchange),
					 batch->exchange);
}

/* The next command of the request ends there in data. */
static void
end_command(CqrsBatch *batch, Size at)
{
	Assert(batch->ncommands < CQRS_BATCH_COMMANDS);
	batch->ends[batch->ncommands++] = at;
}

/* The command that counts replicas. */
static void
put_wait(StringInfo buffer, const CqrsBatchOwner *owner)
{
	appendStringInfoString(buffer, "*3\r\n");
	put_argument(buffer, "WAIT");
	put_number(buffer, owner->replicas);
	put_number(buffer, owner->replicas_ms);
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

/* Append an argument as the protocol has it. */
static void
put_argument(StringInfo buffer, const char *text)
{
	appendStringInfo(buffer, "$%zu\r\n%s\r\n", strlen(text), text);
}

static void
put_number(StringInfo buffer, uint64 number)
{
	char		text[32];

	snprintf(text, sizeof(text), UINT64_FORMAT, number);
	put_argument(buffer, text);
}
