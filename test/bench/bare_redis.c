/*-------------------------------------------------------------------------
 *
 * bare_redis.c
 *	  The least that publishing to Redis with libhiredis takes: the yardstick
 *	  for the publisher of cqrs.
 *
 * Usage: bare_redis HOST PORT QUEUE WINDOW < BODIES
 *
 * Pushes the lines of its standard input, which it reads before it starts the
 * clock, in Kombu's envelope to a list, with at most WINDOW replies
 * outstanding, and prints messages, seconds, and seconds of processor time.
 *
 *-------------------------------------------------------------------------
 */
#include <openssl/evp.h>

#include <hiredis/hiredis.h>

#include "bare.h"

static void
push(redisContext * context, const char *queue, const char *body, size_t number)
{
	static char envelope[1024 * 1024];
	size_t		length = strlen(body);
	char	   *end = envelope;

	if (length > sizeof(envelope) / 2)
		fail("a large body");
	end += sprintf(end, "{\"body\": \"");
	end += EVP_EncodeBlock((unsigned char *) end, (const unsigned char *) body,
						   (int) length);
	end += sprintf(end, "\", \"content-encoding\": \"utf-8\", \"content-type\": \"text/plain\", \"headers\": {}, \"properties\": {\"delivery_mode\": 2, \"delivery_info\": {\"exchange\": \"cqrs\", \"routing_key\": \"master\"}, \"priority\": 0, \"body_encoding\": \"base64\", \"delivery_tag\": \"%zu\"}}",
				   number);
	if (redisAppendCommand(context, "LPUSH %s %b", queue, envelope,
						   (size_t) (end - envelope)) != REDIS_OK)
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
	double		start;
	double		start_cpu;

	if (argc != 5)
	{
		fprintf(stderr, "usage: bare_redis HOST PORT QUEUE WINDOW < BODIES\n");
		return 2;
	}
	window = strtoull(argv[4], NULL, 10);
	nbodies = read_bodies(&bodies);
	context = redisConnect(argv[1], atoi(argv[2]));
	if (context == NULL || context->err)
		fail("connecting");

	start = now_s();
	start_cpu = cpu_s();
	while (confirmed < nbodies)
	{
		/* Half a window at a time, so that commands share a write. */
		for (size_t i = 0; i < window / 2 && sent < nbodies; i++, sent++)
			push(context, argv[3], bodies[sent], sent);
		while (confirmed < sent &&
			   (sent - confirmed > window / 2 || sent == nbodies))
		{
			read_reply(context);
			confirmed++;
		}
	}
	printf("%zu %.6f %.6f\n", nbodies, now_s() - start, cpu_s() - start_cpu);
	redisFree(context);
	return 0;
}
