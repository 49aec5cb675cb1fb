/*-------------------------------------------------------------------------
 *
 * link.h
 *	  The publisher's link to the broker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LINK_H
#define CQRS_LINK_H

#include "postgres.h"

#include "publish/hold.h"
#include "publish/lane.h"
#include "publish/state.h"
#include "publish/window.h"

typedef struct CqrsLink CqrsLink;

/* Create a link that sends the messages in "window", as the worker's lane. */
extern CqrsLink *cqrs_link_create(const CqrsWorker *worker, CqrsWindow *window,
								  CqrsHolds *holds);

/*
 * Set the identity of the publisher: the first part of message ids, and of the
 * name of the lease.  To be called before the first turn.  A different
 * identity ends the connection.
 */
extern void cqrs_link_identify(CqrsLink *link, const char *identity);

/* The settings have changed. */
extern void cqrs_link_reload(CqrsLink *link);

/*
 * Forget masters that are not registered any more, in a transaction of its own, if
 * somebody has asked for a look at the catalog.
 */
extern void cqrs_link_look(CqrsLink *link);

/*
 * Connect if an attempt is due.  Disconnect if "paused", or if a copy of the
 * database has taken over.  May reset the latch.
 */
extern void cqrs_link_turn(CqrsLink *link, bool paused);

/*
 * send() sends some messages.  receive() handles some of the broker's answers,
 * and returns whether there may be more.
 */
extern void cqrs_link_send(CqrsLink *link);
extern bool cqrs_link_receive(CqrsLink *link);

/* Close the connection, if there is one. */
extern void cqrs_link_close(CqrsLink *link);

extern bool cqrs_link_is_open(const CqrsLink *link);

/*
 * The socket to wait on, PGINVALID_SOCKET without a connection.  *write is set
 * if the wait is for room to write as well.
 */
extern pgsocket cqrs_link_socket(const CqrsLink *link, bool *write);

/* Milliseconds until something is due: 0 if it is now, -1 if nothing is. */
extern long cqrs_link_wait_ms(const CqrsLink *link, bool paused);

/* The state to show, as far as the broker is concerned. */
extern CqrsPublisherState cqrs_link_state(const CqrsLink *link);

#endif							/* CQRS_LINK_H */
