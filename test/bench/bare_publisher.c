/*-------------------------------------------------------------------------
 *
 * bare_publisher.c
 *	  The least that publishing with librabbitmq takes: the yardstick for the
 *	  publisher of cqrs.
 *
 * Usage: bare_publisher HOST PORT EXCHANGE ROUTING_KEY WINDOW < BODIES
 *
 * Publishes the lines of its standard input, which it reads before it starts
 * the clock, as persistent messages to a durable topic exchange, with at most
 * WINDOW of them unconfirmed, and prints messages, seconds and messages per
 * second.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>

/* Messages that are sent before confirms are looked at, as in publisher.c. */
#define SEND_TURN	200

static void
fail(const char *what)
{
	fprintf(stderr, "bare_publisher: %s failed\n", what);
	exit(1);
}

static void
check(amqp_connection_state_t connection, const char *what)
{
	if (amqp_get_rpc_reply(connection).reply_type != AMQP_RESPONSE_NORMAL)
		fail(what);
}

static double
now_s(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
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

int
main(int argc, char **argv)
{
	amqp_connection_state_t connection;
	amqp_socket_t *socket;
	amqp_basic_properties_t properties = {0};
	char	  **bodies = NULL;
	char	   *line = NULL;
	size_t		size = 0;
	ssize_t		length;
	size_t		nbodies = 0;
	uint64_t	sent = 0;
	uint64_t	confirmed = 0;
	uint64_t	window;
	double		start;

	if (argc != 6)
	{
		fprintf(stderr, "usage: bare_publisher HOST PORT EXCHANGE ROUTING_KEY WINDOW < BODIES\n");
		return 2;
	}
	window = strtoull(argv[5], NULL, 10);

	while ((length = getline(&line, &size, stdin)) > 0)
	{
		if (line[length - 1] == '\n')
			line[length - 1] = '\0';
		if ((nbodies & (nbodies - 1)) == 0)
			bodies = realloc(bodies, (nbodies == 0 ? 1 : nbodies * 2) * sizeof(char *));
		bodies[nbodies++] = strdup(line);
	}

	connection = amqp_new_connection();
	socket = amqp_tcp_socket_new(connection);
	if (amqp_socket_open(socket, argv[1], atoi(argv[2])) != AMQP_STATUS_OK)
		fail("connecting");
	if (amqp_login(connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN,
				   "guest", "guest").reply_type != AMQP_RESPONSE_NORMAL)
		fail("logging in");
	amqp_channel_open(connection, 1);
	check(connection, "opening a channel");
	amqp_exchange_declare(connection, 1, amqp_cstring_bytes(argv[3]),
						  amqp_cstring_bytes("topic"), 0, 1, 0, 0,
						  amqp_empty_table);
	check(connection, "declaring the exchange");
	amqp_confirm_select(connection, 1);
	check(connection, "enabling confirms");

	properties._flags = AMQP_BASIC_CONTENT_TYPE_FLAG |
		AMQP_BASIC_DELIVERY_MODE_FLAG;
	properties.content_type = amqp_cstring_bytes("text/plain");
	properties.delivery_mode = 2;

	start = now_s();
	while (confirmed < nbodies)
	{
		struct timeval wait = {0, 0};

		for (int i = 0; i < SEND_TURN && sent < nbodies && sent - confirmed < window; i++)
		{
			if (amqp_basic_publish(connection, 1, amqp_cstring_bytes(argv[3]),
								   amqp_cstring_bytes(argv[4]), 1, 0,
								   &properties,
								   amqp_cstring_bytes(bodies[sent])) != AMQP_STATUS_OK)
				fail("publishing");
			sent++;
		}
		if (sent == nbodies || sent - confirmed >= window)
			wait.tv_sec = 10;
		confirmed = read_confirms(connection, confirmed, wait);
	}
	printf("%zu %.3f %.0f\n", nbodies, now_s() - start,
		   nbodies / (now_s() - start));
	amqp_destroy_connection(connection);
	return 0;
}
