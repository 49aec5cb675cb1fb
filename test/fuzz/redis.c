/*-------------------------------------------------------------------------
 *
 * redis.c
 *	  Any bytes as replies of a Redis server, for libFuzzer; "make fuzz" runs
 *	  it.
 *
 * usage: redis [option of libFuzzer ...] [folder | file ...]
 *
 * A folder that comes first gets one input of each kind to begin with.
 *
 * Whatever the bytes are, and in whatever parts they come, a reply is within
 * its limit; nothing outside of it is read, and an error that is shown does not
 * have the password (I19, I20).  Each string is read as an envelope too: its delivery
 * has a body that ends with a zero, and texts that are valid.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "broker/failure.h"
#include "broker/redis.h"
#include "broker/redis_envelope.h"
#include "fuzz.h"

#define MAX_BYTES	2000
#define PASSWORD	"s3cret"

static int	encoding = PG_UTF8;

/* What comes from the server, and how much of it at a time. */
static const char *input;
static Size input_length;
static Size part;

/* The reply that is freed when the next one is read. */
static CqrsReply current;
static bool is_there;

int
GetDatabaseEncoding(void)
{
	return encoding;
}

ssize_t
cqrs_socket_read(CqrsSocket *sock, void *buffer, Size size)
{
	Size		length = Min(Min(size, part), input_length);

	memcpy(buffer, input, length);
	input += length;
	input_length -= length;
	return length;
}

static void
free_reply(CqrsReply *reply)
{
	for (int i = 0; i < reply->nelements; i++)
		free_reply(&reply->elements[i]);
	if (reply->text != NULL)
		pfree(reply->text);
	if (reply->elements != NULL)
		pfree(reply->elements);
}

/* That of the replies is the only one. */
void
MemoryContextReset(MemoryContext context)
{
	CHECK(is_there);
	free_reply(&current);
	is_there = false;
}

MemoryContext
AllocSetContextCreateInternal(MemoryContext parent, const char *name,
							  Size minContextSize, Size initBlockSize,
							  Size maxBlockSize)
{
	return NULL;
}

static void
check_text(const char *text)
{
	while (*text != '\0')
	{
		int			size = encoding == PG_LATIN1 ? 1 :
		pg_encoding_mblen(PG_UTF8, text);

		CHECK((unsigned char) *text >= ' ' && *text != 0x7f);
		CHECK(size <= strlen(text));
		CHECK(encoding == PG_LATIN1 ? (unsigned char) *text < 0x80 :
			  pg_utf8_islegal((const unsigned char *) text, size));
		text += size;
	}
}

static void
check_envelope(const char *text, Size length)
{
	/* So that AddressSanitizer knows where the envelope ends. */
	char	   *copy = malloc(length);
	const char *mark;
	Size		mark_length;
	CqrsDelivery *delivery;

	memcpy(copy, text, length);
	delivery = cqrs_redis_envelope_read(NULL, copy, length, &mark,
										&mark_length);
	CHECK(delivery->length <= length);
	CHECK(delivery->body[delivery->length] == '\0');
	/* As it came. */
	CHECK(strnlen(delivery->routing_key, 256) < 256);
	if (delivery->message_id != NULL)
		check_text(delivery->message_id);
	CHECK(mark >= copy && mark_length <= length - (mark - copy));
	CHECK(mark_length <= 256);
	pfree(delivery);
	free(copy);
}

static void
check_error(const char *text, Size length)
{
	char		error[64];

	cqrs_failure_hide("user", PASSWORD);
	cqrs_failure_quote(error, sizeof(error), text, length);
	CHECK(strlen(error) < sizeof(error));
	CHECK(strstr(error, PASSWORD) == NULL);
	check_text(error);
	(void) cqrs_redis_remedy(error);
	(void) cqrs_redis_blame(error, true);
}

/* Returns how many bytes the reply has. */
static Size
check_reply(const CqrsReply *reply)
{
	Size		bytes = 0;

	switch (reply->type)
	{
		case CQRS_REPLY_ERROR:
			check_error(reply->text, reply->length);
			/* FALLTHROUGH */
		case CQRS_REPLY_TEXT:
			CHECK(reply->text[reply->length] == '\0');
			if (reply->type == CQRS_REPLY_TEXT)
				check_envelope(reply->text, reply->length);
			return reply->length + 1;
		case CQRS_REPLY_ARRAY:
			bytes = reply->nelements * sizeof(CqrsReply);
			for (int i = 0; i < reply->nelements; i++)
				bytes += check_reply(&reply->elements[i]);
			return bytes;
		case CQRS_REPLY_INTEGER:
		case CQRS_REPLY_NIL:
			CHECK(reply->text == NULL && reply->elements == NULL);
			break;
	}
	return bytes;
}

/* As the reply to a batch of three messages. */
static void
check_answer(const CqrsReply *reply)
{
	CqrsBatch	batch = {.count = 3};

	if (!cqrs_redis_batch_answer(&batch, reply))
		return;
	CHECK(batch.done >= 0 && batch.done <= batch.count);
	CHECK((batch.done == batch.count) == (batch.error[0] == '\0'));
	check_text(batch.error);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
	CqrsReplyReader *reader;
	CqrsReply  *reply;
	int			result;

	/* The first two bytes say which encoding, and in which parts. */
	if (length < 2)
		return 0;
	encoding = data[0] == 'L' ? PG_LATIN1 : PG_UTF8;
	part = data[1] == 0 ? length : data[1];
	input = (const char *) data + 2;
	input_length = length - 2;
	is_there = false;
	reader = cqrs_redis_reply_create(NULL, NULL, MAX_BYTES);
	while ((result = cqrs_redis_reply_read(reader, &reply)) > 0)
	{
		current = *reply;
		is_there = true;
		CHECK(check_reply(reply) <= MAX_BYTES);
		check_answer(reply);
	}
	if (result < 0)
		CHECK(cqrs_redis_reply_error(reader) != NULL);
	cqrs_redis_reply_destroy(reader);
	free_all();
	return 0;
}

#define SEED(name, text) write_seed(name, text, sizeof(text) - 1)

void
make_seeds(void)
{
	SEED("handshake", "U\0+OK\r\n:1\r\n$-1\r\n");
	SEED("confirms", "U\3*3\r\n:1\r\n:0\r\n:2\r\n*2\r\n:1\r\n-OOM s3cret\r\n*0\r\n");
	SEED("errors", "L\0-ERR caf\xc3\xa9 s3cret\r\n-LEASE x\r\n");
	SEED("scan", "U\0*2\r\n$1\r\n0\r\n*1\r\n$1\r\nk\r\n");
	SEED("message", "U\0*1\r\n$97\r\n{\"body\": \"eA==\", \"properties\": {\"body_encoding\": \"base64\", \"delivery_tag\": \"\\u00e9\\ud83d\\ude00\"}}\r\n");
	SEED("envelope", "U\0$87\r\n{\"properties\": {\"delivery_info\": {\"routing_key\": \"k\"}, \"message_id\": \"i\"}, \"body\": \"x\"}\r\n");
}
