/*-------------------------------------------------------------------------
 *
 * feed.c
 *	  The messages that a connection delivers to the consumer.
 *
 * The feed subscribes, puts deliveries into the inbox, and acknowledges those
 * that are committed.  prefetch.c decides when, and how many messages the
 * broker delivers before they are acknowledged.  The connection belongs to the
 * intake: the feed never closes it, but reports when it is lost, or when the
 * waiting messages take twice the memory that prefetch.c allows for.
 *
 * Messages return to the queue only by the end of the connection: a quorum
 * queue would put a returned message at its end, and counts each return.
 *
 * A failure of the broker is no error.  Belongs to the consumer alone; lives
 * in TopMemoryContext.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/timing.h"
#include "broker/failure.h"
#include "consume/consumer_state.h"
#include "consume/feed.h"
#include "consume/prefetch.h"
#include "worker/worker.h"

/* The most events that are handled in one turn. */
#define RECEIVE_TURN		2000
/* A connection is served this often in the midst of a transaction. */
#define SERVE_INTERVAL_MS	1000

struct CqrsFeed
{
	CqrsInbox  *inbox;
	const CqrsSession *session;
	CqrsTopology *topology;
	CqrsIntakeLog *log;
	const char *queue;
	CqrsPrefetch prefetch;
	TimestampTz served_at;
	bool		lost;			/* FAILED has come, or an error was raised,
								 * while serving */
	bool		serving;
	CqrsFailure failure;		/* lost: why */
};

static bool is_crowded(const CqrsFeed *feed);
static void check_served(CqrsFeed *feed);
static bool poll_event(CqrsFeed *feed);
static void handle_event(CqrsFeed *feed, const CqrsEvent *event);
static void take_delivery(CqrsFeed *feed, CqrsDelivery *delivery);
static void cancelled(CqrsFeed *feed, const char *reason);
static void follow_prefetch(CqrsFeed *feed);

CqrsFeed *
cqrs_feed_create(CqrsInbox *inbox, const CqrsSession *session,
				 CqrsTopology *topology, CqrsIntakeLog *log)
{
	CqrsFeed   *feed = MemoryContextAllocZero(TopMemoryContext,
											  sizeof(CqrsFeed));

	feed->inbox = inbox;
	feed->session = session;
	feed->topology = topology;
	feed->log = log;
	return feed;
}

void
cqrs_feed_set_wary(CqrsFeed *feed, bool wary)
{
	cqrs_prefetch_set_wary(&feed->prefetch, wary);
}

void
cqrs_feed_open(CqrsFeed *feed, const char *queue)
{
	feed->queue = queue;
	feed->lost = false;
}

void
cqrs_feed_reset(CqrsFeed *feed)
{
	cqrs_prefetch_reset(&feed->prefetch);
	cqrs_inbox_clear(feed->inbox);
	feed->lost = false;
	cqrs_worker_set_counter(CQRS_CONSUMED_WINDOW, 0);
}

const CqrsFailure *
cqrs_feed_failure(CqrsFeed *feed)
{
	check_served(feed);
	return feed->lost ? &feed->failure : NULL;
}

bool
cqrs_feed_turn(CqrsFeed *feed)
{
	cqrs_prefetch_begin(&feed->prefetch);
	follow_prefetch(feed);
	if (!is_crowded(feed))
		return true;
	/* A burst of large messages. */
	cqrs_prefetch_set_crowded(&feed->prefetch);
	return false;
}

void
cqrs_feed_receive(CqrsFeed *feed)
{
	check_served(feed);
	for (int i = 0; i < RECEIVE_TURN && !feed->lost && !is_crowded(feed); i++)
	{
		if (!poll_event(feed))
			break;
	}
	feed->served_at = GetCurrentTimestamp();
}

void
cqrs_feed_serve(CqrsFeed *feed)
{
	check_served(feed);
	if (feed->session->connection == NULL || feed->lost ||
		cqrs_until_after_ms(feed->served_at, SERVE_INTERVAL_MS) > 0)
		return;
	feed->serving = true;
	while (!feed->lost && poll_event(feed) &&
		   cqrs_inbox_bytes(feed->inbox) <= CQRS_PREFETCH_BYTES)
		;
	follow_prefetch(feed);
	feed->serving = false;
	feed->served_at = GetCurrentTimestamp();
}

void
cqrs_feed_acknowledge(CqrsFeed *feed, uint64 tag)
{
	check_served(feed);
	cqrs_inbox_remove(feed->inbox, tag);
	cqrs_prefetch_settle(&feed->prefetch, tag);
	follow_prefetch(feed);
}

void
cqrs_feed_flush(CqrsFeed *feed)
{
	const CqrsSession *session = feed->session;
	uint64		tag = cqrs_prefetch_flush(&feed->prefetch);

	if (tag != 0 && !feed->lost)
		session->transport->acknowledge(session->connection, tag);
}

void
cqrs_feed_finish(CqrsFeed *feed)
{
	const CqrsSession *session = feed->session;
	CqrsEvent	event;

	cqrs_feed_flush(feed);
	/* poll() sends; what has arrived goes back to the queue. */
	for (int i = 0; i < RECEIVE_TURN && !feed->lost; i++)
	{
		session->transport->poll(session->connection, &event, &feed->failure);
		feed->lost = event.kind == CQRS_EVENT_FAILED;
		if (event.kind == CQRS_EVENT_NONE)
			break;
	}
}

bool
cqrs_feed_gathers(const CqrsFeed *feed)
{
	return cqrs_prefetch_gathers(&feed->prefetch);
}

long
cqrs_feed_wait_ms(const CqrsFeed *feed)
{
	const CqrsSession *session = feed->session;

	if (feed->lost || feed->prefetch.subscription == CQRS_SUBSCRIPTION_NONE)
		return 0;
	return cqrs_sooner_ms(session->transport->wait_ms(session->connection),
						  cqrs_prefetch_wait_ms(&feed->prefetch));
}

/*
 * Whether twice the memory waits that prefetch.c reckons with; false for a
 * single message of any size.
 */
static bool
is_crowded(const CqrsFeed *feed)
{
	return cqrs_inbox_bytes(feed->inbox) > 2 * (Size) CQRS_PREFETCH_BYTES &&
		cqrs_inbox_count(feed->inbox) > 1;
}

/*
 * An error in the midst of serve() is caught by the batch.  A delivery may be
 * missing in the inbox, and must not be acknowledged with those after it.
 */
static void
check_served(CqrsFeed *feed)
{
	if (!feed->serving)
		return;
	feed->serving = false;
	if (feed->session->connection == NULL || feed->lost)
		return;
	feed->lost = true;
	cqrs_failure_set(&feed->failure, CQRS_BLAME_TRANSPORT,
					 "could not store what the broker has delivered");
}

/* Handle what has arrived.  Returns whether there was anything. */
static bool
poll_event(CqrsFeed *feed)
{
	const CqrsSession *session = feed->session;
	CqrsEvent	event;

	session->transport->poll(session->connection, &event, &feed->failure);
	if (event.kind == CQRS_EVENT_NONE)
		return false;
	handle_event(feed, &event);
	follow_prefetch(feed);
	return true;
}

/* Handle an event that is not NONE. */
static void
handle_event(CqrsFeed *feed, const CqrsEvent *event)
{
	switch (event->kind)
	{
		case CQRS_EVENT_FAILED:
			feed->lost = true;
			break;
		case CQRS_EVENT_SUBSCRIBED:
			cqrs_prefetch_begun(&feed->prefetch);
			break;
		case CQRS_EVENT_DELIVERY:
			take_delivery(feed, event->delivery);
			break;
		case CQRS_EVENT_CANCELLED:
			cancelled(feed, event->detail);
			break;
		default:
			break;
	}
}

/* Count a delivery and put it into the inbox, to which it belongs then. */
static void
take_delivery(CqrsFeed *feed, CqrsDelivery *delivery)
{
	cqrs_worker_count(CQRS_CONSUMED_RECEIVED, 1);
	if (delivery->redelivered)
		cqrs_worker_count(CQRS_CONSUMED_REDELIVERED, 1);
	cqrs_intake_log_count(feed->log, delivery->delivery_count);
	cqrs_prefetch_take(&feed->prefetch, delivery);
	cqrs_inbox_push(feed->inbox, delivery);
}

/*
 * Subscribe anew: with the new window, or when the queue was deleted, to the
 * queue that the next turn of the intake declares.
 */
static void
cancelled(CqrsFeed *feed, const char *reason)
{
	if (cqrs_prefetch_ended(&feed->prefetch, reason[0] == '\0'))
		return;
	cqrs_topology_connected(feed->topology);
	cqrs_intake_log_cancelled(feed->log, feed->queue, reason);
}

/* Subscribe, unsubscribe and acknowledge as prefetch.c wants. */
static void
follow_prefetch(CqrsFeed *feed)
{
	const CqrsTransport *transport = feed->session->transport;
	CqrsConnection *connection = feed->session->connection;
	CqrsPrefetch *prefetch = &feed->prefetch;
	CqrsPrefetchStep step;

	if (feed->lost)
		return;
	while ((step = cqrs_prefetch_next(prefetch)) != CQRS_PREFETCH_WAIT)
	{
		switch (step)
		{
			case CQRS_PREFETCH_SUBSCRIBE:
				transport->subscribe(connection,
									 cqrs_topology_utf8(feed->queue),
									 prefetch->window);
				cqrs_worker_set_counter(CQRS_CONSUMED_WINDOW, prefetch->window);
				break;
			case CQRS_PREFETCH_UNSUBSCRIBE:
				transport->unsubscribe(connection);
				break;
			case CQRS_PREFETCH_ACKNOWLEDGE:
				transport->acknowledge(connection, prefetch->acknowledged);
				break;
			case CQRS_PREFETCH_WAIT:
				break;
		}
	}
}
