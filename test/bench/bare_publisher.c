/*-------------------------------------------------------------------------
 *
 * bare_publisher.c
 *	  The least that publishing with librabbitmq takes: the yardstick for the
 *	  publisher of cqrs.
 *
 * Usage: bare_publisher HOST PORT EXCHANGE ROUTING_KEY WINDOW [RATE] < BODIES
 *
 * Publishes the lines of its standard input, which it reads before it starts
 * the clock, as persistent messages to a durable topic exchange, with at most
 * WINDOW of them unconfirmed, and prints messages, seconds, and seconds of
 * processor time.
 *
 * With RATE, messages are sent one at a time at random moments, so many in a
 * second on average (as pgbench's --rate does), and before each its time is
 * printed: microseconds since 1970.
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>
#include <sys/time.h>

#include "bare.h"
#include "../../src/broker/rabbitmq.h"

/* Messages that are sent before confirms are looked at, as in publisher.c. */
#define SEND_TURN	200

static void
check(amqp_connection_state_t connection, const char *what)
{
	if (amqp_get_rpc_reply(connection).reply_type != AMQP_RESPONSE_NORMAL)
		fail(what);
}

static struct timeval
as_timeval(double seconds)
{
	struct timeval result = {0, 0};

	if (seconds > 0)
	{
		result.tv_sec = (time_t) seconds;
		result.tv_usec = (suseconds_t) ((seconds - result.tv_sec) * 1e6);
	}
	return result;
}

/* Read confirms, waiting for at most "wait"; returns the last one known. */
static uint64_t
read_confirms(amqp_connection_state_t connection, uint64_t confirmed,
			  struct timeval wait)
{
	amqp_frame_t frame;

	for (;;)
	{
		int			status;

		amqp_maybe_release_buffers(connection);
		status = amqp_simple_wait_frame_noblock(connection, &frame, &wait);
		if (status == AMQP_STATUS_TIMEOUT)
			return confirmed;
		if (status != AMQP_STATUS_OK)
			fail("receiving");
		if (frame.frame_type == AMQP_FRAME_METHOD &&
			frame.payload.method.id == AMQP_BASIC_ACK_METHOD)
		{
			amqp_basic_ack_t *ack = frame.payload.method.decoded;

			/* One queue confirms in order. */
			if (ack->delivery_tag > confirmed)
				confirmed = ack->delivery_tag;
		}
		wait.tv_sec = 0;
	}
}

/* A connection that confirms, with the exchange declared. */
static amqp_connection_state_t
connect_to_broker(const char *host, int port, const char *exchange)
{
	amqp_connection_state_t connection = amqp_new_connection();
	amqp_socket_t *socket = amqp_tcp_socket_new(connection);

	if (amqp_socket_open(socket, host, port) != AMQP_STATUS_OK)
		fail("connecting");
	if (amqp_login(connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN,
				   "guest", "guest").reply_type != AMQP_RESPONSE_NORMAL)
		fail("logging in");
	amqp_channel_open(connection, 1);
	check(connection, "opening a channel");
	amqp_exchange_declare(connection, 1, amqp_cstring_bytes(exchange),
						  amqp_cstring_bytes("topic"), 0, 1, 0, 0,
						  amqp_empty_table);
	check(connection, "declaring the exchange");
	amqp_confirm_select(connection, 1);
	check(connection, "enabling confirms");
	return connection;
}

static void
publish(amqp_connection_state_t connection, const char *exchange,
		const char *routing_key, const char *body)
{
	amqp_basic_properties_t properties = {0};

	properties._flags = AMQP_BASIC_CONTENT_TYPE_FLAG |
		AMQP_BASIC_DELIVERY_MODE_FLAG;
	properties.content_type = amqp_cstring_bytes("text/plain");
	properties.delivery_mode = 2;
	if (amqp_basic_publish(connection, 1, amqp_cstring_bytes(exchange),
						   amqp_cstring_bytes(routing_key), 1, 0, &properties,
						   amqp_cstring_bytes(body)) != AMQP_STATUS_OK)
		fail("publishing");
}

int
main(int argc, char **argv)
{
	amqp_connection_state_t connection;
	char	  **bodies = NULL;
	size_t		nbodies;
	uint64_t	sent = 0;
	uint64_t	confirmed = 0;
	uint64_t	window;
	double		rate;
	double		start;
	double		start_cpu;
	double		due;

	if (argc < 6 || argc > 7)
	{
		fprintf(stderr, "usage: bare_publisher HOST PORT EXCHANGE ROUTING_KEY WINDOW [RATE] < BODIES\n");
		return 2;
	}
	window = strtoull(argv[5], NULL, 10);
	rate = argc == 7 ? atof(argv[6]) : 0;

	nbodies = read_bodies(&bodies);
	connection = connect_to_broker(argv[1], atoi(argv[2]), argv[3]);

	start = due = now_s();
	start_cpu = cpu_s();
	while (confirmed < nbodies)
	{
		struct timeval wait = {0, 0};

		for (int i = 0; i < SEND_TURN && sent < nbodies &&
			 sent - confirmed < window && now_s() >= due; i++)
		{
			if (rate > 0)
			{
				struct timespec now;

				due += -log(1 - drand48()) / rate;
				clock_gettime(CLOCK_REALTIME, &now);
				printf("%lld\n", (long long) now.tv_sec * 1000000 + now.tv_nsec / 1000);
			}
			publish(connection, argv[3], argv[4], bodies[sent++]);
		}
		if (sent == nbodies || sent - confirmed >= window)
			wait.tv_sec = 10;
		else if (rate > 0)
			wait = as_timeval(due - now_s());
		confirmed = read_confirms(connection, confirmed, wait);
	}
	printf("%zu %.3f %.3f\n", nbodies, now_s() - start, cpu_s() - start_cpu);
	amqp_destroy_connection(connection);
	return 0;
}
