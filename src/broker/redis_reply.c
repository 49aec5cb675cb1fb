/*-------------------------------------------------------------------------
 *
 * redis_reply.c
 *	  Replies of a Redis server, read from a socket.
 *
 * libhiredis parses the replies.  The connections of libhiredis are not used:
 * they would be a second place that resolves names, speaks TLS and waits,
 * besides socket.c, and release 0.14 knows no TLS.
 *
 * The server is not trusted.  Replies are built by the functions below, within
 * a limit for all bytes of a reply and of the input that waits for its end; so
 * a length or a count that a server only announces costs nothing.  Arrays that
 * are nested too deep are refused, as libhiredis before 1.0 does by itself.
 *
 * A reply lives in a memory context of its own until the next one is read.
 * libhiredis's memory is malloc'd and is freed by destroy().  Nothing here
 * raises an error: an error could not pass through libhiredis.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "broker/hiredis.h"
#include "broker/redis_reply.h"

#define INPUT_BYTES		(64 * 1024)
/* Arrays in arrays; no command that is used answers with more than one. */
#define MAX_DEPTH		7

struct CqrsReplyReader
{
	CqrsSocket *sock;
	redisReader *parser;
	MemoryContext context;		/* of the reply */
	Size		max_bytes;
	Size		bytes;			/* of the reply so far */
	CqrsReply	root;
	bool		has_reply;		/* the context is in use */
	const char *error;			/* or NULL: the socket's */
	TimestampTz received_at;
	char		input[INPUT_BYTES];
};

static CqrsReply *place(const redisReadTask *task, CqrsReplyType type);
static void *allocate(CqrsReplyReader *reader, Size bytes);
static void *make_text(const redisReadTask *task, char *text, size_t length);
static void *make_array(const redisReadTask *task, CqrsHiredisCount count);
static void *make_integer(const redisReadTask *task, long long value);
static void *make_nil(const redisReadTask *task);
static void free_nothing(void *reply);
static void *refuse(const redisReadTask *task);
static bool read_input(CqrsReplyReader *reader, ssize_t *length);
#if HIREDIS_MAJOR >= 1
static void *refuse_double(const redisReadTask *task, double value,
						   char *text, size_t length);
static void *refuse_bool(const redisReadTask *task, int value);
#endif

static redisReplyObjectFunctions functions = {
	.createString = make_text,
	.createArray = make_array,
	.createInteger = make_integer,
	.createNil = make_nil,
#if HIREDIS_MAJOR >= 1
	.createDouble = refuse_double,
	.createBool = refuse_bool,
#endif
	.freeObject = free_nothing
};

CqrsReplyReader *
cqrs_redis_reply_create(MemoryContext context, CqrsSocket *sock, Size max_bytes)
{
	CqrsReplyReader *reader = MemoryContextAlloc(context,
												 sizeof(CqrsReplyReader));

	memset(reader, 0, offsetof(CqrsReplyReader, input));
	reader->sock = sock;
	reader->max_bytes = max_bytes;
	reader->context = AllocSetContextCreate(context, "cqrs reply",
											ALLOCSET_DEFAULT_SIZES);
	reader->received_at = GetCurrentTimestamp();
	reader->parser = redisReaderCreateWithFunctions(&functions);
	if (reader->parser != NULL)
		reader->parser->privdata = reader;
	return reader;
}

void
cqrs_redis_reply_destroy(CqrsReplyReader *reader)
{
	if (reader->parser != NULL)
		redisReaderFree(reader->parser);
	reader->parser = NULL;
}

int
cqrs_redis_reply_read(CqrsReplyReader *reader, CqrsReply **reply)
{
	if (reader->parser == NULL)
	{
		reader->error = "out of memory";
		return -1;
	}
	if (reader->has_reply)
	{
		MemoryContextReset(reader->context);
		reader->has_reply = false;
		reader->bytes = 0;
	}
	for (;;)
	{
		void	   *parsed = NULL;
		ssize_t		length;

		if (redisReaderGetReply(reader->parser, &parsed) != REDIS_OK)
		{
			if (reader->error == NULL)
				reader->error = reader->parser->err == REDIS_ERR_OOM ?
					"out of memory" : "protocol violation by the broker";
			return -1;
		}
		if (parsed != NULL)
		{
			reader->has_reply = true;
			*reply = &reader->root;
			return 1;
		}
		if (!read_input(reader, &length))
			return -1;
		if (length == 0)
			return 0;
	}
}

const char *
cqrs_redis_reply_error(const CqrsReplyReader *reader)
{
	return reader->error != NULL ? reader->error :
		cqrs_socket_error(reader->sock);
}

TimestampTz
cqrs_redis_reply_received_at(const CqrsReplyReader *reader)
{
	return reader->received_at;
}

/*
 * Give the parser the input that the socket has; *length is 0 if there is
 * none.
 */
static bool
read_input(CqrsReplyReader *reader, ssize_t *length)
{
	if (reader->parser->len - reader->parser->pos > reader->max_bytes)
	{
		reader->error = "reply of the broker is too large";
		return false;
	}
	*length = cqrs_socket_read(reader->sock, reader->input, INPUT_BYTES);
	if (*length < 0)
		return false;
	if (*length > 0)
	{
		reader->received_at = GetCurrentTimestamp();
		if (redisReaderFeed(reader->parser, reader->input,
							*length) != REDIS_OK)
		{
			reader->error = "out of memory";
			return false;
		}
	}
	return true;
}

/* The place of the value that is read: the reply, or an element of an array. */
static CqrsReply *
place(const redisReadTask *task, CqrsReplyType type)
{
	CqrsReplyReader *reader = task->privdata;
	CqrsReply  *reply = &reader->root;

	if (task->parent != NULL)
	{
		CqrsReply  *array = task->parent->obj;

		Assert(task->idx >= 0 && task->idx < array->nelements);
		reply = &array->elements[task->idx];
	}
	memset(reply, 0, sizeof(CqrsReply));
	reply->type = type;
	return reply;
}

/* Returns NULL, which ends the parsing, if the limit is exceeded. */
static void *
allocate(CqrsReplyReader *reader, Size bytes)
{
	void	   *result = NULL;

	if (bytes > reader->max_bytes - reader->bytes)
		reader->error = "reply of the broker is too large";
	else
		result = MemoryContextAllocExtended(reader->context, bytes,
											MCXT_ALLOC_NO_OOM |
											MCXT_ALLOC_HUGE);
	reader->bytes += result != NULL ? bytes : 0;
	return result;
}

/*
 * hiredis calls these functions for each value.  They return NULL, which ends
 * the parsing, for what is refused.
 */
static void *
make_text(const redisReadTask *task, char *text, size_t length)
{
	CqrsReplyReader *reader = task->privdata;
	CqrsReply  *reply = place(task, task->type == REDIS_REPLY_ERROR ?
							  CQRS_REPLY_ERROR : CQRS_REPLY_TEXT);

	if (task->type != REDIS_REPLY_ERROR && task->type != REDIS_REPLY_STATUS &&
		task->type != REDIS_REPLY_STRING)
		return refuse(task);
	reply->text = allocate(reader, length + 1);
	if (reply->text == NULL)
		return NULL;
	memcpy(reply->text, text, length);
	reply->text[length] = '\0';
	reply->length = length;
	return reply;
}

/* The elements follow, and fill their places. */
static void *
make_array(const redisReadTask *task, CqrsHiredisCount count)
{
	CqrsReplyReader *reader = task->privdata;
	CqrsReply  *reply = place(task, CQRS_REPLY_ARRAY);
	int			depth = 0;

	if (task->type != REDIS_REPLY_ARRAY)
		return refuse(task);
	for (const redisReadTask *outer = task->parent; outer != NULL;
		 outer = outer->parent)
	{
		if (++depth > MAX_DEPTH)
			return refuse(task);
	}
	if ((Size) count > reader->max_bytes / sizeof(CqrsReply))
	{
		reader->error = "reply of the broker is too large";
		return NULL;
	}
	reply->nelements = count;
	reply->elements = allocate(reader, count * sizeof(CqrsReply));
	return reply->elements != NULL ? reply : NULL;
}

static void *
make_integer(const redisReadTask *task, long long value)
{
	CqrsReply  *reply = place(task, CQRS_REPLY_INTEGER);

	reply->integer = value;
	return reply;
}

static void *
make_nil(const redisReadTask *task)
{
	return place(task, CQRS_REPLY_NIL);
}

/* The memory context frees. */
static void
free_nothing(void *reply)
{
}

/* Also for types of version 3 of the protocol, which was not asked for. */
static void *
refuse(const redisReadTask *task)
{
	CqrsReplyReader *reader = task->privdata;

	reader->error = "protocol violation by the broker";
	return NULL;
}

#if HIREDIS_MAJOR >= 1
static void *
refuse_double(const redisReadTask *task, double value, char *text,
			  size_t length)
{
	return refuse(task);
}

static void *
refuse_bool(const redisReadTask *task, int value)
{
	return refuse(task);
}
#endif
