/*-------------------------------------------------------------------------
 *
 * bare_redis.c
 *	  The least that publishing to Redis with libhiredis takes: the yardstick
 *	  for the publisher of cqrs.
 *
 * Usage: bare_redis HOST PORT QUEUE WINDOW BATCH < BODIES
 *
 * Pushes the lines of its standard input, which it reads before it starts the
 * clock, in Kombu's envelope to a list, BATCH of them by one LPUSH, with at most
 * WINDOW messages outstanding, and prints messages, seconds, and seconds of
 * processor time.
 *
 *-------------------------------------------------------------------------
 */
#include <openssl/evp.h>

#include <hiredis/hiredis.h>

#include "bare.h"

#define MAX_BATCH		1000
#define MAX_ENVELOPE	8192

/* Write a message's envelope; returns its length. */
static size_t
write_envelope(char *envelope, const char *body, size_t number)
{
	size_t		length = strlen(body);
	char	   *end = envelope;

	if (length > MAX_ENVELOPE / 2)
		fail("a large body");
	end += sprintf(end, "{\"body\": \"");
	end += EVP_EncodeBlock((unsigned char *) end, (const unsigned char *) body,
						   (int) length);
	end += sprintf(end, "\", \"content-encoding\": \"utf-8\", \"content-type\": \"text/plain\", \"headers\": {}, \"properties\": {\"delivery_mode\": 2, \"delivery_info\": {\"exchange\": \"cqrs\", \"routing_key\": \"master\"}, \"priority\": 0, \"body_encoding\": \"base64\", \"delivery_tag\": \"%zu\"}}",
				   number);
	return end - envelope;
}

/* Push "count" messages by one command. */
static void
push(redisContext * context, const char *queue, char **bodies, size_t count,
	 size_t number)
{
	static char envelopes[MAX_BATCH][MAX_ENVELOPE];
	static const char *words[MAX_BATCH + 2] = {"LPUSH"};
	static size_t lengths[MAX_BATCH + 2] = {5};

	words[1] = queue;
	lengths[1] = strlen(queue);
	for (size_t i = 0; i < count; i++)
	{
		words[i + 2] = envelopes[i];
		lengths[i + 2] = write_envelope(envelopes[i], bodies[i], number + i);
	}
	if (redisAppendCommandArgv(context, (int) count + 2, words, lengths) != REDIS_OK)
		fail("appending");
}

static void
read_reply(redisContext * context)
{
	redisReply *reply = NULL;

	if (redisGetReply(context, (void **) &reply) != REDIS_OK ||
		reply->type != REDIS_REPLY_INTEGER)
		fail("pushing");
	freeReplyObject(reply);
}

int
main(int argc, char **argv)
{
	redisContext *context;
	char	  **bodies = NULL;
	size_t		nbodies;
	size_t		sent = 0;
	size_t		confirmed = 0;
	size_t		window;
	size_t		batch;
	double		start;
	double		start_cpu;

	if (argc != 6)
	{
		fprintf(stderr, "usage: bare_redis HOST PORT QUEUE WINDOW BATCH < BODIES\n");
		return 2;
	}
	window = strtoull(argv[4], NULL, 10);
	batch = strtoull(argv[5], NULL, 10);
	if (batch == 0 || batch > MAX_BATCH || window / 2 % batch != 0)
		fail("a batch that does not divide half the window");
	nbodies = read_bodies(&bodies);
	context = redisConnect(argv[1], atoi(argv[2]));
	if (context == NULL || context->err)
		fail("connecting");

	start = now_s();
	start_cpu = cpu_s();
	while (confirmed < nbodies)
	{
		/* Half a window at a time, so that commands share a write. */
		for (size_t i = 0; i < window / 2 && sent < nbodies; i += batch)
		{
			size_t		count = nbodies - sent < batch ? nbodies - sent : batch;

			push(context, argv[3], bodies + sent, count, sent);
			sent += count;
		}
		while (confirmed < sent &&
			   (sent - confirmed > window / 2 || sent == nbodies))
		{
			read_reply(context);
			confirmed += nbodies - confirmed < batch ? nbodies - confirmed : batch;
		}
	}
	printf("%zu %.6f %.6f\n", nbodies, now_s() - start, cpu_s() - start_cpu);
	redisFree(context);
	return 0;
}
