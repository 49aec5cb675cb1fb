/*-------------------------------------------------------------------------
 *
 * cqrs_consume.c
 *	  Declares a queue, binds it and prints the messages that arrive in it.
 *
 * What a django-cqrs replica would do with RabbitMQ, for tests and the demo.
 * A message is written and flushed to standard output before it is
 * acknowledged, so that none can be lost here: after a lost connection or a
 * crash of this program some may come again, marked as redelivered.
 *
 * Messages of the client library and diagnostics go to standard error.  The
 * exit status is 0 when the program ended as its options say, 1 after an
 * error, 2 when --timeout-ms passed before --count messages had come.
 *
 * IDENTIFICATION
 *	  test/tools/cqrs_consume.c
 *
 *-------------------------------------------------------------------------
 */
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "../../src/broker/rabbitmq.h"

#define CHANNEL 1
#define PREFETCH 1000
#define ACK_BATCH 200
#define MAX_BINDINGS 64
#define RECONNECT_INTERVAL_MS 100

typedef enum OutputFormat
{
	FORMAT_BODY,				/* the body and a newline */
	FORMAT_TSV,					/* routing key, message id, redelivered, body
								 * as in the text format of COPY */
	FORMAT_JSON,				/* one object a line */
	FORMAT_TIMED				/* time of arrival, in microseconds since
								 * 1970, a blank, and the body */
} OutputFormat;

typedef struct Options
{
	const char *url;
	const char *exchange;
	const char *queue;
	const char *queue_type;		/* NULL: the broker's default */
	const char *bindings[MAX_BINDINGS];
	int			nbindings;
	OutputFormat format;
	bool		declare_only;
	bool		drain;			/* stop when the queue is empty */
	bool		reconnect;
	long		count;			/* stop after so many messages, or -1 */
	long		idle_ms;		/* stop after so long without one, or -1 */
	long		timeout_ms;		/* stop after so long in any case, or -1 */
} Options;

typedef enum ConsumeResult
{
	CONSUME_DONE,				/* as the options say */
	CONSUME_TIMEOUT,
	CONSUME_LOST				/* connection gone: reconnect or fail */
} ConsumeResult;

/* Where the program stands; outlives a connection. */
typedef struct Progress
{
	long		received;
	int64_t		last_message_ms;
	int64_t		deadline_ms;	/* INT64_MAX when there is none */
} Progress;

static volatile sig_atomic_t stop_requested = 0;

static void
handle_stop(int signo)
{
	(void) signo;
	stop_requested = 1;
}

static int64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int64_t
epoch_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static amqp_bytes_t
as_bytes(const char *str)
{
	return amqp_cstring_bytes(str);
}

/* Prints what is wrong with a reply and returns false, or returns true. */
static bool
check_reply(amqp_rpc_reply_t reply, const char *what)
{
	if (reply.reply_type == AMQP_RESPONSE_NORMAL)
		return true;

	if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION)
		fprintf(stderr, "cqrs_consume: %s: %s\n", what,
				amqp_error_string2(reply.library_error));
	else if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION &&
			 reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD)
	{
		amqp_connection_close_t *m = reply.reply.decoded;

		fprintf(stderr, "cqrs_consume: %s: %.*s\n", what,
				(int) m->reply_text.len, (char *) m->reply_text.bytes);
	}
	else if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION &&
			 reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD)
	{
		amqp_channel_close_t *m = reply.reply.decoded;

		fprintf(stderr, "cqrs_consume: %s: %.*s\n", what,
				(int) m->reply_text.len, (char *) m->reply_text.bytes);
	}
	else
		fprintf(stderr, "cqrs_consume: %s: unexpected reply\n", what);
	return false;
}

/* Returns a logged-in connection with an open channel, or NULL. */
static amqp_connection_state_t
connect_to_broker(const char *url)
{
	struct amqp_connection_info info;
	struct timeval timeout = {5, 0};
	char	   *parsed = strdup(url);
	amqp_connection_state_t conn = NULL;
	amqp_socket_t *socket;
	bool		ok = false;

	amqp_default_connection_info(&info);
	if (parsed == NULL || amqp_parse_url(parsed, &info) != AMQP_STATUS_OK)
	{
		fprintf(stderr, "cqrs_consume: invalid --url\n");
		exit(1);
	}

	conn = amqp_new_connection();
	socket = conn ? amqp_tcp_socket_new(conn) : NULL;
	if (socket != NULL &&
		amqp_set_rpc_timeout(conn, &timeout) == AMQP_STATUS_OK &&
		amqp_socket_open_noblock(socket, info.host, info.port,
								 &timeout) == AMQP_STATUS_OK &&
		check_reply(amqp_login(conn, info.vhost, 0, AMQP_DEFAULT_FRAME_SIZE, 0,
							   AMQP_SASL_METHOD_PLAIN, info.user,
							   info.password), "login"))
	{
		amqp_channel_open(conn, CHANNEL);
		ok = check_reply(amqp_get_rpc_reply(conn), "channel");
	}

	free(parsed);
	if (!ok && conn != NULL)
	{
		amqp_destroy_connection(conn);
		conn = NULL;
	}
	return conn;
}

/*
 * Declares exchange, queue and bindings as a django-cqrs replica does.
 * Returns the number of messages that wait in the queue, or -1.
 */
static long
declare_all(amqp_connection_state_t conn, const Options *opts)
{
	amqp_queue_declare_ok_t *declared;
	amqp_table_entry_t type = {0};
	amqp_table_t arguments = {0, &type};
	long		waiting;

	if (opts->queue_type != NULL)
	{
		type.key = as_bytes("x-queue-type");
		type.value.kind = AMQP_FIELD_KIND_UTF8;
		type.value.value.bytes = as_bytes(opts->queue_type);
		arguments.num_entries = 1;
	}

	amqp_exchange_declare(conn, CHANNEL, as_bytes(opts->exchange),
						  as_bytes("topic"), 0, 1, 0, 0, amqp_empty_table);
	if (!check_reply(amqp_get_rpc_reply(conn), "exchange"))
		return -1;

	declared = amqp_queue_declare(conn, CHANNEL, as_bytes(opts->queue),
								  0, 1, 0, 0, arguments);
	if (!check_reply(amqp_get_rpc_reply(conn), "queue"))
		return -1;
	waiting = declared->message_count;

	for (int i = 0; i < opts->nbindings; i++)
	{
		amqp_queue_bind(conn, CHANNEL, as_bytes(opts->queue),
						as_bytes(opts->exchange), as_bytes(opts->bindings[i]),
						amqp_empty_table);
		if (!check_reply(amqp_get_rpc_reply(conn), "binding"))
			return -1;
	}
	return waiting;
}

/* Writes a JSON string.  What is not ASCII is passed on as it is. */
static void
put_json_string(const void *data, size_t len)
{
	const unsigned char *p = data;

	putchar('"');
	for (size_t i = 0; i < len; i++)
	{
		if (p[i] == '"' || p[i] == '\\')
			printf("\\%c", p[i]);
		else if (p[i] < 0x20)
			printf("\\u%04x", p[i]);
		else
			putchar(p[i]);
	}
	putchar('"');
}

/* Writes a column in the text format of COPY. */
static void
put_tsv_column(const void *data, size_t len)
{
	const char *p = data;

	for (size_t i = 0; i < len; i++)
	{
		switch (p[i])
		{
			case '\\':
				fputs("\\\\", stdout);
				break;
			case '\t':
				fputs("\\t", stdout);
				break;
			case '\n':
				fputs("\\n", stdout);
				break;
			case '\r':
				fputs("\\r", stdout);
				break;
			default:
				putchar(p[i]);
		}
	}
}

static void
put_bytes_property(const char *name, amqp_bytes_t value, const char **sep)
{
	printf("%s\"%s\":", *sep, name);
	put_json_string(value.bytes, value.len);
	*sep = ",";
}

static void
put_number_property(const char *name, uint64_t value, const char **sep)
{
	printf("%s\"%s\":%" PRIu64, *sep, name, value);
	*sep = ",";
}

/* Writes the properties that are set; headers only as their number. */
static void
put_properties(const amqp_basic_properties_t *p)
{
	const char *sep = "";

	putchar('{');
	if (p->_flags & AMQP_BASIC_CONTENT_TYPE_FLAG)
		put_bytes_property("content_type", p->content_type, &sep);
	if (p->_flags & AMQP_BASIC_CONTENT_ENCODING_FLAG)
		put_bytes_property("content_encoding", p->content_encoding, &sep);
	if (p->_flags & AMQP_BASIC_HEADERS_FLAG)
		put_number_property("headers", p->headers.num_entries, &sep);
	if (p->_flags & AMQP_BASIC_DELIVERY_MODE_FLAG)
		put_number_property("delivery_mode", p->delivery_mode, &sep);
	if (p->_flags & AMQP_BASIC_PRIORITY_FLAG)
		put_number_property("priority", p->priority, &sep);
	if (p->_flags & AMQP_BASIC_CORRELATION_ID_FLAG)
		put_bytes_property("correlation_id", p->correlation_id, &sep);
	if (p->_flags & AMQP_BASIC_REPLY_TO_FLAG)
		put_bytes_property("reply_to", p->reply_to, &sep);
	if (p->_flags & AMQP_BASIC_EXPIRATION_FLAG)
		put_bytes_property("expiration", p->expiration, &sep);
	if (p->_flags & AMQP_BASIC_MESSAGE_ID_FLAG)
		put_bytes_property("message_id", p->message_id, &sep);
	if (p->_flags & AMQP_BASIC_TIMESTAMP_FLAG)
		put_number_property("timestamp", p->timestamp, &sep);
	if (p->_flags & AMQP_BASIC_TYPE_FLAG)
		put_bytes_property("type", p->type, &sep);
	if (p->_flags & AMQP_BASIC_USER_ID_FLAG)
		put_bytes_property("user_id", p->user_id, &sep);
	if (p->_flags & AMQP_BASIC_APP_ID_FLAG)
		put_bytes_property("app_id", p->app_id, &sep);
	putchar('}');
}

static void
put_message(const amqp_envelope_t *envelope, OutputFormat format)
{
	const amqp_message_t *message = &envelope->message;
	const amqp_basic_properties_t *properties = &message->properties;

	switch (format)
	{
		case FORMAT_BODY:
			fwrite(message->body.bytes, 1, message->body.len, stdout);
			break;

		case FORMAT_TIMED:
			printf("%" PRId64 " ", epoch_us());
			fwrite(message->body.bytes, 1, message->body.len, stdout);
			break;

		case FORMAT_TSV:
			put_tsv_column(envelope->routing_key.bytes,
						   envelope->routing_key.len);
			putchar('\t');
			if (properties->_flags & AMQP_BASIC_MESSAGE_ID_FLAG)
				put_tsv_column(properties->message_id.bytes,
							   properties->message_id.len);
			else
				fputs("\\N", stdout);
			printf("\t%c\t", envelope->redelivered ? 't' : 'f');
			put_tsv_column(message->body.bytes, message->body.len);
			break;

		case FORMAT_JSON:
			printf("{\"exchange\":");
			put_json_string(envelope->exchange.bytes, envelope->exchange.len);
			printf(",\"routing_key\":");
			put_json_string(envelope->routing_key.bytes,
							envelope->routing_key.len);
			printf(",\"redelivered\":%s,\"properties\":",
				   envelope->redelivered ? "true" : "false");
			put_properties(properties);
			printf(",\"body\":");
			put_json_string(message->body.bytes, message->body.len);
			putchar('}');
			break;
	}
	putchar('\n');
}

/* Makes the output durable as far as this program can, then acknowledges. */
static bool
flush_and_ack(amqp_connection_state_t conn, uint64_t tag, int *unacked)
{
	if (*unacked == 0)
		return true;
	if (fflush(stdout) != 0)
	{
		perror("cqrs_consume: could not write");
		exit(1);
	}
	*unacked = 0;
	return amqp_basic_ack(conn, CHANNEL, tag, 1) == AMQP_STATUS_OK;
}

/* How long to wait for the next message: 0 when some limit has passed. */
static int64_t
wait_time_ms(const Options *opts, const Progress *progress)
{
	int64_t		now = now_ms();
	int64_t		until = now + 100;	/* look at stop_requested this often */

	if (opts->idle_ms >= 0 && progress->last_message_ms + opts->idle_ms < until)
		until = progress->last_message_ms + opts->idle_ms;
	if (progress->deadline_ms < until)
		until = progress->deadline_ms;
	return until > now ? until - now : 0;
}

static bool
idle_passed(const Options *opts, const Progress *progress)
{
	return opts->idle_ms >= 0 &&
		now_ms() >= progress->last_message_ms + opts->idle_ms;
}

/* Prints messages until there is a reason to stop, and says which. */
static ConsumeResult
consume(amqp_connection_state_t conn, const Options *opts, long waiting,
		Progress *progress)
{
	int			unacked = 0;
	uint64_t	tag = 0;

	if (opts->drain && waiting == 0)
		return CONSUME_DONE;
	amqp_basic_qos(conn, CHANNEL, 0, PREFETCH, 0);
	if (!check_reply(amqp_get_rpc_reply(conn), "prefetch"))
		return CONSUME_LOST;
	amqp_basic_consume(conn, CHANNEL, as_bytes(opts->queue), amqp_empty_bytes,
					   0, 0, 0, amqp_empty_table);
	if (!check_reply(amqp_get_rpc_reply(conn), "consume"))
		return CONSUME_LOST;

	for (;;)
	{
		amqp_envelope_t envelope;
		amqp_rpc_reply_t reply;
		int64_t		wait_ms = 0;
		struct timeval timeout = {0, 0};
		bool		complete;

		complete = opts->count >= 0 && progress->received >= opts->count;
		if (stop_requested || complete || (opts->drain && waiting == 0))
			return flush_and_ack(conn, tag, &unacked) ?
				CONSUME_DONE : CONSUME_LOST;

		/* Only with nothing left to acknowledge is it right to wait. */
		if (unacked == 0)
			wait_ms = wait_time_ms(opts, progress);
		timeout.tv_sec = wait_ms / 1000;
		timeout.tv_usec = wait_ms % 1000 * 1000;

		amqp_maybe_release_buffers(conn);
		reply = amqp_consume_message(conn, &envelope, &timeout, 0);
		if (reply.reply_type == AMQP_RESPONSE_NORMAL)
		{
			put_message(&envelope, opts->format);
			tag = envelope.delivery_tag;
			amqp_destroy_envelope(&envelope);
			progress->received++;
			waiting--;
			progress->last_message_ms = now_ms();
			if (++unacked >= ACK_BATCH && !flush_and_ack(conn, tag, &unacked))
				return CONSUME_LOST;
			continue;
		}

		if (reply.reply_type != AMQP_RESPONSE_LIBRARY_EXCEPTION ||
			reply.library_error != AMQP_STATUS_TIMEOUT)
		{
			if (fflush(stdout) != 0)
				exit(1);
			check_reply(reply, "connection lost");
			return CONSUME_LOST;
		}
		if (!flush_and_ack(conn, tag, &unacked))
			return CONSUME_LOST;
		if (idle_passed(opts, progress))
			return CONSUME_DONE;
		if (now_ms() >= progress->deadline_ms)
			return opts->count >= 0 ? CONSUME_TIMEOUT : CONSUME_DONE;
	}
}

/*
 * Ends a connection in order, so that the broker has seen the last
 * acknowledgement when this program exits.
 */
static void
disconnect(amqp_connection_state_t conn, bool orderly)
{
	if (orderly)
		amqp_connection_close(conn, AMQP_REPLY_SUCCESS);
	amqp_destroy_connection(conn);
}

/* Connects, declares and consumes once. */
static ConsumeResult
run_connection(const Options *opts, Progress *progress)
{
	amqp_connection_state_t conn = connect_to_broker(opts->url);
	ConsumeResult result = CONSUME_LOST;
	long		waiting;

	if (conn == NULL)
		return CONSUME_LOST;

	waiting = declare_all(conn, opts);
	if (waiting >= 0)
	{
		fprintf(stderr, "cqrs_consume: ready\n");
		result = opts->declare_only ? CONSUME_DONE :
			consume(conn, opts, waiting, progress);
	}
	disconnect(conn, result != CONSUME_LOST);
	return result;
}

static void
usage(void)
{
	fprintf(stderr,
			"usage: cqrs_consume --url URL --queue QUEUE [OPTION]...\n"
			"  --exchange NAME    topic exchange, default cqrs\n"
			"  --queue-type TYPE  classic or quorum\n"
			"  --bind KEY         bind the queue to KEY; repeatable\n"
			"  --declare-only     declare exchange, queue and bindings, then exit\n"
			"  --count N          exit after N messages\n"
			"  --drain            exit when what waits in the queue has been read\n"
			"  --idle-ms MS       exit after MS without a message\n"
			"  --timeout-ms MS    exit after MS in any case\n"
			"  --reconnect        on a lost connection, connect again\n"
			"  --format FORMAT    body (default), tsv, json or timed\n");
	exit(1);
}

static long
parse_number(const char *arg)
{
	char	   *end;
	long		value = strtol(arg, &end, 10);

	if (*arg == '\0' || *end != '\0' || value < 0)
		usage();
	return value;
}

static OutputFormat
parse_format(const char *arg)
{
	if (strcmp(arg, "tsv") == 0)
		return FORMAT_TSV;
	if (strcmp(arg, "json") == 0)
		return FORMAT_JSON;
	if (strcmp(arg, "timed") == 0)
		return FORMAT_TIMED;
	if (strcmp(arg, "body") != 0)
		usage();
	return FORMAT_BODY;
}

static Options
parse_options(int argc, char **argv)
{
	static const struct option long_options[] = {
		{"url", required_argument, NULL, 'u'},
		{"exchange", required_argument, NULL, 'e'},
		{"queue", required_argument, NULL, 'q'},
		{"queue-type", required_argument, NULL, 'T'},
		{"bind", required_argument, NULL, 'b'},
		{"declare-only", no_argument, NULL, 'd'},
		{"count", required_argument, NULL, 'c'},
		{"drain", no_argument, NULL, 'D'},
		{"idle-ms", required_argument, NULL, 'i'},
		{"timeout-ms", required_argument, NULL, 't'},
		{"reconnect", no_argument, NULL, 'r'},
		{"format", required_argument, NULL, 'f'},
		{NULL, 0, NULL, 0}
	};
	Options		opts = {0};
	int			c;

	opts.exchange = "cqrs";
	opts.count = opts.idle_ms = opts.timeout_ms = -1;
	while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1)
	{
		switch (c)
		{
			case 'u':
				opts.url = optarg;
				break;
			case 'e':
				opts.exchange = optarg;
				break;
			case 'q':
				opts.queue = optarg;
				break;
			case 'T':
				opts.queue_type = optarg;
				break;
			case 'b':
				if (opts.nbindings == MAX_BINDINGS)
					usage();
				opts.bindings[opts.nbindings++] = optarg;
				break;
			case 'd':
				opts.declare_only = true;
				break;
			case 'c':
				opts.count = parse_number(optarg);
				break;
			case 'D':
				opts.drain = true;
				break;
			case 'i':
				opts.idle_ms = parse_number(optarg);
				break;
			case 't':
				opts.timeout_ms = parse_number(optarg);
				break;
			case 'r':
				opts.reconnect = true;
				break;
			case 'f':
				opts.format = parse_format(optarg);
				break;
			default:
				usage();
		}
	}
	if (opts.url == NULL || opts.queue == NULL || optind != argc)
		usage();
	return opts;
}

int
main(int argc, char **argv)
{
	Options		opts = parse_options(argc, argv);
	Progress	progress = {0, now_ms(), INT64_MAX};
	struct sigaction action = {.sa_handler = handle_stop};
	ConsumeResult result;

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (opts.timeout_ms >= 0)
		progress.deadline_ms = now_ms() + opts.timeout_ms;

	for (;;)
	{
		result = run_connection(&opts, &progress);
		if (result != CONSUME_LOST || !opts.reconnect || stop_requested)
			break;
		if (now_ms() >= progress.deadline_ms)
		{
			result = CONSUME_TIMEOUT;
			break;
		}
		/* paces the attempts; a signal ends the wait */
		poll(NULL, 0, RECONNECT_INTERVAL_MS);
	}

	if (fflush(stdout) != 0)
		return 1;
	if (result == CONSUME_TIMEOUT)
		fprintf(stderr, "cqrs_consume: timeout after %ld messages\n",
				progress.received);
	if (result == CONSUME_LOST && stop_requested && opts.reconnect)
		return 0;
	return result == CONSUME_DONE ? 0 : result == CONSUME_TIMEOUT ? 2 : 1;
}
