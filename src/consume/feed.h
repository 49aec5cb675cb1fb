/*-------------------------------------------------------------------------
 *
 * feed.h
 *	  The messages that a connection delivers to the consumer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_FEED_H
#define CQRS_FEED_H

#include "postgres.h"

#include "broker/session.h"
#include "consume/inbox.h"
#include "consume/intake_log.h"
#include "consume/topology.h"

typedef struct CqrsFeed CqrsFeed;

/*
 * Create a feed that fills "inbox" from the connections of "session".  All
 * four belong to the caller, and live as long as the feed.
 */
extern CqrsFeed *cqrs_feed_create(CqrsInbox *inbox, const CqrsSession *session,
								  CqrsTopology *topology, CqrsIntakeLog *log);

/*
 * With "wary", the window does not grow with commits: one of the next messages
 * may crash the server.
 */
extern void cqrs_feed_set_wary(CqrsFeed *feed, bool wary);

/* A connection was opened.  "queue" is not copied, and lives until reset(). */
extern void cqrs_feed_open(CqrsFeed *feed, const char *queue);

/* The connection was closed: what it delivered goes back to the queue. */
extern void cqrs_feed_reset(CqrsFeed *feed);

/* Why the connection is lost, although it is not closed yet; NULL: it is not. */
extern const CqrsFailure *cqrs_feed_failure(CqrsFeed *feed);

/*
 * With a connection: subscribe if there is no subscription.  Returns false if
 * so much waits that the connection is to be closed.
 */
extern bool cqrs_feed_turn(CqrsFeed *feed);

/* With a connection: take some of what has arrived. */
extern void cqrs_feed_receive(CqrsFeed *feed);

/*
 * Serve the connection, if there is one and that is due, in the midst of a
 * transaction.  May raise an error; failure() says so later.
 */
extern void cqrs_feed_serve(CqrsFeed *feed);

/* All deliveries up to that tag, of this connection, are committed. */
extern void cqrs_feed_acknowledge(CqrsFeed *feed, uint64 tag);

/* With a connection: send an acknowledgement that waits for others. */
extern void cqrs_feed_flush(CqrsFeed *feed);

/*
 * Like flush(), when the process ends and cannot wait until close() has sent
 * the output that the transport has buffered.
 */
extern void cqrs_feed_finish(CqrsFeed *feed);

/* Whether nothing is to be applied yet, for the order of a quorum queue. */
extern bool cqrs_feed_gathers(const CqrsFeed *feed);

/* With a connection: milliseconds until there is something to do; -1: none. */
extern long cqrs_feed_wait_ms(const CqrsFeed *feed);

#endif							/* CQRS_FEED_H */
