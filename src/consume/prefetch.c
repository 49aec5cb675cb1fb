/*-------------------------------------------------------------------------
 *
 * prefetch.c
 *	  How many messages the broker delivers before they are acknowledged.
 *
 * At most "window" deliveries are not acknowledged.  The window begins at 1 on
 * each connection and grows eightfold with each commit: if something ends
 * every connection, one message is redelivered each time and not thousands.
 * Redeliveries count towards the delivery limit of a quorum queue.
 *
 * Growing means to cancel the subscription and to subscribe anew, on the same
 * channel; deliveries that are not acknowledged stay with it.  Messages that
 * are on their way from a quorum queue at that moment go back to it, behind
 * the messages that are delivered next.  So a subscription is cancelled only
 * while its window is full, and before more room is made by an
 * acknowledgement: then nothing is on its way.  The acknowledgement waits for
 * up to FILL_MS until the window is full; if that fails, the next attempt
 * follows when as many messages as the window has have come.  A window that
 * does not become full would gain nothing from being larger.
 *
 * What has come back.  A quorum queue puts messages that come back behind
 * those that came back before.  So when the first message of a connection is
 * one that has come back, all others are taken at once, and come back
 * together; nothing is applied before, for up to GATHER_MS.  More messages
 * than a window may have been out on a connection, because of earlier
 * subscriptions.  So this window is about twice as wide, and at least as wide
 * as the number of messages that this process had.  This is not done more
 * often than TOGETHER_RETURNS times, because of the delivery limit.  Other
 * queues keep their order, and take one message first.
 *
 * Memory.  Otherwise a window is at most CQRS_PREFETCH_BYTES over the largest
 * recent message, also of the connection before.  Together with messages of
 * the subscription before, twice as much memory can be in use.
 *
 * Nothing here talks to the broker, or raises an error: feed.c does what
 * cqrs_prefetch_next() says.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/guc.h"
#include "base/timing.h"
#include "consume/prefetch.h"

/* Factor of the window with each commit. */
#define WINDOW_GROWTH		8
/*
 * Messages that have been returned more often are taken one by one.  Sensible
 * delivery limits are higher: RabbitMQ's own is 20.
 */
#define TOGETHER_RETURNS	3
/* The longest wait for a window that fills. */
#define FILL_MS				100
/* The longest wait for what has come back. */
#define GATHER_MS			2000
/* What AMQP has room for. */
#define MAX_WINDOW			65535
/* The largest recent message counts less with each smaller one. */
#define LARGEST_DECAY		256

static bool takes_all(const CqrsPrefetch *prefetch);
static int	wanted(const CqrsPrefetch *prefetch);
static int	widest(const CqrsPrefetch *prefetch);
static bool is_full(const CqrsPrefetch *prefetch);

void
cqrs_prefetch_reset(CqrsPrefetch *prefetch)
{
	*prefetch = (CqrsPrefetch)
	{
		.wary = prefetch->wary,.crowded = prefetch->crowded,
			.largest = prefetch->largest,
			.out = Max(prefetch->out, prefetch->delivered - prefetch->acknowledged)
	};
}

void
cqrs_prefetch_set_wary(CqrsPrefetch *prefetch, bool wary)
{
	prefetch->wary = wary;
}

void
cqrs_prefetch_set_crowded(CqrsPrefetch *prefetch)
{
	prefetch->crowded = true;
}

void
cqrs_prefetch_begin(CqrsPrefetch *prefetch)
{
	if (prefetch->subscription != CQRS_SUBSCRIPTION_NONE)
		return;
	prefetch->subscription = CQRS_SUBSCRIPTION_DUE;
	prefetch->window = 1;
}

void
cqrs_prefetch_begun(CqrsPrefetch *prefetch)
{
	if (prefetch->subscription == CQRS_SUBSCRIPTION_BEGINS)
		prefetch->subscription = CQRS_SUBSCRIPTION_RUNS;
	prefetch->gathers_since = 0;
}

void
cqrs_prefetch_take(CqrsPrefetch *prefetch, const CqrsDelivery *delivery)
{
	prefetch->largest -= prefetch->largest / LARGEST_DECAY;
	prefetch->largest = Max(prefetch->largest, (double) delivery->length);
	prefetch->taken++;
	prefetch->delivered = delivery->tag;
	/* Only quorum queues count. */
	prefetch->returned = delivery->redelivered &&
		delivery->delivery_count > 0 &&
		delivery->delivery_count <= TOGETHER_RETURNS;
}

bool
cqrs_prefetch_ended(CqrsPrefetch *prefetch, bool asked)
{
	bool		follows = asked &&
	prefetch->subscription == CQRS_SUBSCRIPTION_ENDS;

	prefetch->subscription = follows ? CQRS_SUBSCRIPTION_DUE :
		CQRS_SUBSCRIPTION_NONE;
	if (!follows)
		prefetch->gathers_since = 0;
	return follows;
}

void
cqrs_prefetch_settle(CqrsPrefetch *prefetch, uint64 tag)
{
	if (prefetch->settled == 0)
		prefetch->settled_at = GetCurrentTimestamp();
	prefetch->settled = tag;
	prefetch->crowded = false;
	prefetch->out = 0;
}

CqrsPrefetchStep
cqrs_prefetch_next(CqrsPrefetch *prefetch)
{
	int			window;

	if (prefetch->subscription == CQRS_SUBSCRIPTION_DUE)
	{
		prefetch->subscription = CQRS_SUBSCRIPTION_BEGINS;
		prefetch->taken = 0;
		prefetch->fill_at = prefetch->window;
		return CQRS_PREFETCH_SUBSCRIBE;
	}
	window = prefetch->subscription == CQRS_SUBSCRIPTION_RUNS ?
		wanted(prefetch) : prefetch->window;
	if (window != prefetch->window && is_full(prefetch))
	{
		if (takes_all(prefetch) && window > prefetch->window)
			prefetch->gathers_since = GetCurrentTimestamp();
		prefetch->subscription = CQRS_SUBSCRIPTION_ENDS;
		prefetch->window = window;
		return CQRS_PREFETCH_UNSUBSCRIBE;
	}
	if (prefetch->settled == 0)
		return CQRS_PREFETCH_WAIT;
	if (window != prefetch->window && prefetch->taken >= prefetch->fill_at)
	{
		if (cqrs_until_after_ms(prefetch->settled_at, FILL_MS) > 0)
			return CQRS_PREFETCH_WAIT;
		prefetch->fill_at = prefetch->taken + prefetch->window;
	}
	(void) cqrs_prefetch_flush(prefetch);
	return CQRS_PREFETCH_ACKNOWLEDGE;
}

uint64
cqrs_prefetch_flush(CqrsPrefetch *prefetch)
{
	uint64		tag = prefetch->settled;

	if (tag != 0)
		prefetch->acknowledged = tag;
	prefetch->settled = 0;
	return tag;
}

long
cqrs_prefetch_wait_ms(const CqrsPrefetch *prefetch)
{
	long		wait_ms = -1;

	if (prefetch->settled != 0)
		wait_ms = cqrs_until_after_ms(prefetch->settled_at, FILL_MS);
	if (cqrs_prefetch_gathers(prefetch))
		wait_ms = cqrs_sooner_ms(wait_ms,
								 cqrs_until_after_ms(prefetch->gathers_since,
													 GATHER_MS));
	return wait_ms;
}

bool
cqrs_prefetch_gathers(const CqrsPrefetch *prefetch)
{
	return prefetch->gathers_since != 0 &&
		cqrs_until_after_ms(prefetch->gathers_since, GATHER_MS) > 0;
}

/* Whether messages that have come back are taken all at once. */
static bool
takes_all(const CqrsPrefetch *prefetch)
{
	return prefetch->returned && !prefetch->crowded;
}

/*
 * The window that is to come.  A change costs a round trip, so small steps are
 * left out.
 */
static int
wanted(const CqrsPrefetch *prefetch)
{
	int			most = widest(prefetch);
	int			window = prefetch->window;

	if (takes_all(prefetch))
		window = Min(Max(most * 2 - 1, prefetch->out), MAX_WINDOW);
	else if (prefetch->settled != 0 && !prefetch->wary)
		window = Min(window * WINDOW_GROWTH, most);

	if (window > prefetch->window * 2 || window <= prefetch->window / 2 ||
		(window > prefetch->window &&
		 (window == cqrs_prefetch || window == 2 * cqrs_prefetch - 1 ||
		  window == prefetch->out)))
		return window;
	return prefetch->window;
}

/* The largest window, for messages as they have been recently. */
static int
widest(const CqrsPrefetch *prefetch)
{
	return Max(1, Min(cqrs_prefetch,
					  (int) (CQRS_PREFETCH_BYTES / Max(prefetch->largest, 1024))));
}

/* Whether the broker delivers nothing before something is acknowledged. */
static bool
is_full(const CqrsPrefetch *prefetch)
{
	return Min(prefetch->delivered - prefetch->acknowledged, prefetch->taken) >=
		prefetch->window;
}
