/*-------------------------------------------------------------------------
 *
 * prefetch.h
 *	  How many messages the broker delivers before they are acknowledged.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_PREFETCH_H
#define CQRS_PREFETCH_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "broker/transport.h"

/* What the messages of a window may have, if all are large. */
#define CQRS_PREFETCH_BYTES		(64 * 1024 * 1024)

typedef enum CqrsPrefetchStep
{
	CQRS_PREFETCH_WAIT,
	CQRS_PREFETCH_SUBSCRIBE,	/* with this window */
	CQRS_PREFETCH_UNSUBSCRIBE,
	CQRS_PREFETCH_ACKNOWLEDGE	/* up to the tag "acknowledged" */
} CqrsPrefetchStep;

typedef enum CqrsSubscription
{
	CQRS_SUBSCRIPTION_NONE,
	CQRS_SUBSCRIPTION_DUE,		/* subscribe() is to be called */
	CQRS_SUBSCRIPTION_BEGINS,	/* SUBSCRIBED is awaited */
	CQRS_SUBSCRIPTION_RUNS,
	CQRS_SUBSCRIPTION_ENDS		/* CANCELLED is awaited; another one follows */
} CqrsSubscription;

/* Begins as zeroes.  Callers read "subscription", "window" and "acknowledged". */
typedef struct CqrsPrefetch
{
	CqrsSubscription subscription;
	int			window;			/* of the subscription */
	uint64		taken;			/* deliveries to the subscription */
	uint64		fill_at;		/* its window is to grow when it has had so
								 * many */
	uint64		delivered;		/* the last tag of the connection */
	uint64		acknowledged;
	uint64		settled;		/* to be acknowledged; 0: none is */
	TimestampTz settled_at;		/* since when that waits for a full window */
	double		largest;		/* bytes of the largest recent message */
	bool		returned;		/* the last delivery has come back to a quorum
								 * queue */
	uint64		out;			/* what was delivered and not acknowledged on
								 * connections before; 0 after a commit */
	TimestampTz gathers_since;	/* since when the others that have come back
								 * are awaited; 0: they are not */
	bool		wary;
	bool		crowded;
} CqrsPrefetch;

/* A connection has begun or ended. */
extern void cqrs_prefetch_reset(CqrsPrefetch *prefetch);

/*
 * With "wary", the window does not grow with commits, because one of the next
 * messages may crash the server.
 */
extern void cqrs_prefetch_set_wary(CqrsPrefetch *prefetch, bool wary);

/* Too much waits: take one message after the other up to the next commit. */
extern void cqrs_prefetch_set_crowded(CqrsPrefetch *prefetch);

/* Subscribe, unless there is a subscription. */
extern void cqrs_prefetch_begin(CqrsPrefetch *prefetch);

/* The broker has answered subscribe(). */
extern void cqrs_prefetch_begun(CqrsPrefetch *prefetch);

/* A delivery has arrived. */
extern void cqrs_prefetch_take(CqrsPrefetch *prefetch,
							   const CqrsDelivery *delivery);

/*
 * The subscription has ended.  Returns whether that was asked for, and another
 * one follows.
 */
extern bool cqrs_prefetch_ended(CqrsPrefetch *prefetch, bool asked);

/* All deliveries up to that tag are committed. */
extern void cqrs_prefetch_settle(CqrsPrefetch *prefetch, uint64 tag);

/*
 * What is to be done now; to be called until that is CQRS_PREFETCH_WAIT, after
 * each of the functions above, and when the time of wait_ms() has passed.
 */
extern CqrsPrefetchStep cqrs_prefetch_next(CqrsPrefetch *prefetch);

/* What is to be acknowledged before the connection is closed; 0: nothing. */
extern uint64 cqrs_prefetch_flush(CqrsPrefetch *prefetch);

/* Milliseconds until next() or gathers() may say something else; -1: for ever. */
extern long cqrs_prefetch_wait_ms(const CqrsPrefetch *prefetch);

/*
 * Whether a message has come back to a quorum queue, and the others are not
 * assigned to this connection yet: nothing is to be applied until they are.
 */
extern bool cqrs_prefetch_gathers(const CqrsPrefetch *prefetch);

#endif							/* CQRS_PREFETCH_H */
