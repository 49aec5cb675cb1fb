/*-------------------------------------------------------------------------
 *
 * prefetch.c
 *	  What the broker delivers ahead, under random schedules, without a server.
 *
 * usage: prefetch SECONDS [SEED]
 *
 * The broker here has a queue and delivers from it, over a channel, what the
 * window of the subscription leaves room for.  Commands and deliveries are on
 * their way for some time.  At any time
 *
 *	  - no delivery is on its way when the broker ends a subscription, since a
 *		quorum queue would put it behind others (I29)
 *	  - what is acknowledged is settled, and not later than 100 ms after that
 *	  - a window is set so that it has its memory with messages like the last
 *	  - the window of a wary consumer does not grow with commits
 *	  - when a message has come back to a quorum queue up to three times, all are
 *		taken at once, and nothing is applied before, unless too much waits; else
 *		the window begins at 1
 *	  - what is out on a connection is not more than the next one takes (I29)
 *
 * In the end all is acknowledged; and where messages wait and the broker is
 * quick, the window becomes the widest within twenty commits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/guc.h"
#include "consume/prefetch.h"
#include "server.h"

#define MESSAGES	3000
#define LATEST_US	100000		/* of an acknowledgement */
#define MAX_WINDOW	500

/* Setting of prefetch.c. */
int			cqrs_prefetch;

typedef enum
{
	SUBSCRIBE, UNSUBSCRIBE, ACKNOWLEDGE,	/* to the broker */
	SUBSCRIBED, CANCELLED, DELIVERY		/* to the consumer */
} Kind;

typedef struct
{
	Kind		kind;
	int			number;			/* the window, or the tag */
} Frame;

typedef struct
{
	Frame		frames[MESSAGES * 4];
	int			sent;
	int			received;
} Pipe;

static Pipe to_broker;
static Pipe to_consumer;

/* The broker */
static int	queued;				/* messages that are published: 1, 2, ... */
static int	acknowledged;		/* of all */
static int	window;				/* 0: no subscription */
static int	before;				/* deliveries of the subscriptions before */
static int	tags;				/* deliveries of the connection */
static int	taken_back;			/* acknowledged when the connection began */
static int	returns;			/* of the messages that have come back */
static int	came_back;			/* up to this message */

/* The consumer */
static CqrsPrefetch prefetch;
static int	delivered;			/* tags of the connection */
static double last;				/* bytes of the last delivery */
static int	settled;
static int	told;				/* what the last acknowledgement was for */
static TimestampTz settled_at;
static bool wary;
static bool crowded;
static bool quorum;
static int	out;				/* deliveries that have come back */
static int	largest;			/* messages have up to so many bytes more */
static int	patience;			/* commits are this much rarer */

static void
send(Pipe *pipe, Kind kind, int number)
{
	CHECK(pipe->sent < lengthof(pipe->frames));
	pipe->frames[pipe->sent++] = (Frame){kind, number};
}

static const Frame *
receive(Pipe *pipe)
{
	return pipe->received == pipe->sent ? NULL : &pipe->frames[pipe->received++];
}

/* Deliveries that the consumer has not seen. */
static int
under_way(void)
{
	return tags - delivered;
}

static void
follow(void)
{
	CqrsPrefetchStep step;

	while ((step = cqrs_prefetch_next(&prefetch)) != CQRS_PREFETCH_WAIT)
	{
		switch (step)
		{
			case CQRS_PREFETCH_SUBSCRIBE:
				CHECK(prefetch.window >= 1 && prefetch.window <= Max(2 * cqrs_prefetch - 1, out));
				send(&to_broker, SUBSCRIBE, prefetch.window);
				break;
			case CQRS_PREFETCH_UNSUBSCRIBE:
				CHECK(prefetch.window == 1 || prefetch.window == out ||
					  prefetch.window * last <= 2.0 * CQRS_PREFETCH_BYTES);
				send(&to_broker, UNSUBSCRIBE, 0);
				break;
			case CQRS_PREFETCH_ACKNOWLEDGE:
				CHECK(prefetch.acknowledged == settled && settled > told);
				told = settled;
				send(&to_broker, ACKNOWLEDGE, told);
				break;
			case CQRS_PREFETCH_WAIT:
				break;
		}
	}
	CHECK(told == settled || now_us < settled_at + LATEST_US);
	CHECK(told == settled && !cqrs_prefetch_gathers(&prefetch) ?
		  cqrs_prefetch_wait_ms(&prefetch) == -1 :
		  cqrs_prefetch_wait_ms(&prefetch) > 0);
}

static void
connect_again(void)
{
	out = Max(settled == 0 ? out : 0, delivered - told);
	if (tags > acknowledged - taken_back)
	{
		if (came_back <= acknowledged)
			returns = 0;
		returns++;
		came_back = taken_back + tags;
	}
	memset(&to_broker, 0, sizeof(to_broker));
	memset(&to_consumer, 0, sizeof(to_consumer));
	window = before = tags = delivered = settled = told = 0;
	taken_back = acknowledged;
	cqrs_prefetch_reset(&prefetch);
	cqrs_prefetch_begin(&prefetch);
	follow();
}

static void
publish(int count)
{
	queued = Min(queued + count, MESSAGES);
}

static void
deliver(void)
{
	int			unacknowledged = tags - Max(acknowledged - taken_back, before);

	if (window == 0 || unacknowledged >= window || taken_back + tags == queued)
		return;
	send(&to_consumer, DELIVERY, ++tags);
}

static void
broker_turn(void)
{
	const Frame *frame = receive(&to_broker);

	if (frame == NULL)
		return;
	switch (frame->kind)
	{
		case SUBSCRIBE:
			CHECK(window == 0);
			window = frame->number;
			before = tags;
			send(&to_consumer, SUBSCRIBED, 0);
			break;
		case UNSUBSCRIBE:
			CHECK(under_way() == 0);
			window = 0;
			send(&to_consumer, CANCELLED, 0);
			break;
		case ACKNOWLEDGE:
			CHECK(taken_back + frame->number > acknowledged);
			acknowledged = taken_back + frame->number;
			break;
		default:
			CHECK(false);
	}
}

/* Whether the last delivery is one again. */
static bool
has_come_back(void)
{
	return taken_back + delivered <= came_back;
}

static bool
is_taken_at_once(void)
{
	return has_come_back() && quorum && returns <= 3 && !crowded;
}

static void
consumer_turn(void)
{
	const Frame *frame = receive(&to_consumer);
	int			had = prefetch.window;
	bool		idle = told == settled;
	CqrsDelivery delivery = {0};

	if (frame == NULL)
		return;
	switch (frame->kind)
	{
		case SUBSCRIBED:
			cqrs_prefetch_begun(&prefetch);
			break;
		case CANCELLED:
			CHECK(cqrs_prefetch_ended(&prefetch, true));
			break;
		case DELIVERY:
			CHECK(frame->number == delivered + 1);
			delivered++;
			delivery.tag = delivered;
			delivery.length = 100 + (any(20) == 0 ? any(largest) : 0);
			last = delivery.length;
			delivery.redelivered = has_come_back();
			delivery.delivery_count = delivery.redelivered && quorum ? returns : 0;
			cqrs_prefetch_take(&prefetch, &delivery);
			break;
		default:
			CHECK(false);
	}
	follow();
	if (prefetch.window > had && idle)
		CHECK(is_taken_at_once());
	if (frame->kind == DELIVERY && delivered == 1 && is_taken_at_once() &&
		largest == 1)
	{
		CHECK(prefetch.window == Max(2 * cqrs_prefetch - 1, out));
		CHECK(prefetch.window == 1 || cqrs_prefetch_gathers(&prefetch));
	}
}

static void
commit(void)
{
	int			had = prefetch.window;

	if (delivered == settled || cqrs_prefetch_gathers(&prefetch))
		return;
	if (told == settled)
		settled_at = now_us;
	settled += 1 + any(any(2) == 0 ? 1 : delivered - settled);
	crowded = false;
	cqrs_prefetch_settle(&prefetch, settled);
	follow();
	CHECK(prefetch.window == had || !wary || is_taken_at_once());
}

static void
pass_time(int us)
{
	/* The consumer is called when the time of wait_ms() has passed. */
	long		wait_ms = cqrs_prefetch_wait_ms(&prefetch);

	now_us += wait_ms < 0 ? us : Min(us, wait_ms * 1000);
	follow();
}

static void
step(bool lives)
{
	switch (any(lives ? 100 : 90))
	{
		case 99:
			if (any(10) == 0)
				connect_again();
			break;
		case 98:
			if (any(10) == 0)
				cqrs_prefetch_set_wary(&prefetch, wary = !wary);
			break;
		case 97:
			if (any(30) == 0)
			{
				cqrs_prefetch_set_crowded(&prefetch);
				crowded = true;
				connect_again();
			}
			break;
		case 96:
		case 95:
			publish(1 + any(200));
			break;
		default:
			switch (any(8))
			{
				case 0:
					if (any(patience) == 0)
						commit();
					break;
				case 1:
					pass_time(any(5000));
					break;
				case 2:
				case 3:
					broker_turn();
					break;
				case 4:
				case 5:
					deliver();
					break;
				default:
					consumer_turn();
			}
	}
}

static void
reset(void)
{
	memset(&prefetch, 0, sizeof(prefetch));
	queued = acknowledged = taken_back = returns = came_back = 0;
	tags = delivered = settled = told = 0;
	out = 0;
	wary = crowded = false;
	quorum = any(2) == 0;
	cqrs_prefetch = 1 + any(MAX_WINDOW);
	largest = 1;
	patience = 1;
}

/* Messages wait, and the broker is quick: the window becomes the widest. */
static void
check_growth(void)
{
	reset();
	connect_again();
	publish(MESSAGES);
	for (int i = 0; i < 20 && window < cqrs_prefetch; i++)
	{
		while (to_broker.received < to_broker.sent)
			broker_turn();
		for (int j = 0; j < cqrs_prefetch; j++)
			deliver();
		while (to_consumer.received < to_consumer.sent)
			consumer_turn();
		commit();
		while (to_broker.received < to_broker.sent ||
			   to_consumer.received < to_consumer.sent)
		{
			broker_turn();
			consumer_turn();
		}
	}
	CHECK(window == cqrs_prefetch);
}

static void
run(void)
{
	check_growth();
	reset();
	if (any(2) == 0)
		largest = CQRS_PREFETCH_BYTES;
	patience = 1 + any(50);
	connect_again();
	for (int i = 0; i < 3000; i++)
		step(true);

	/* Nothing more happens to the connection, and all is there. */
	cqrs_prefetch_set_wary(&prefetch, wary = false);
	publish(MESSAGES);
	patience = 1;
	for (int i = 0; acknowledged < MESSAGES; i++)
	{
		CHECK(i < MESSAGES * 1000);
		step(false);
	}
}

int
main(int argc, char **argv)
{
	return run_schedules(argc, argv, run, "random lives of a subscription");
}
