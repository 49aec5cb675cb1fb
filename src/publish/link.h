/*-------------------------------------------------------------------------
 *
 * link.h
 *	  The publisher's dealings with the broker.
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

/* Send what is in "window", as that lane. */
extern CqrsLink *cqrs_link_create(const CqrsWorker *worker, CqrsWindow *window,
								  CqrsHolds *holds);

/*
 * Who is publishing: the first part of message ids, and the name of the lease.
 * Has to be told before the first turn; another one ends the connection.
 */
extern void cqrs_link_identify(CqrsLink *link, const char *identity);

/* The settings have changed. */
extern void cqrs_link_reload(CqrsLink *link);

/*
 * Connect when it is time to; disconnect with "paused", or when a copy of the
 * database has taken over.  May take notice of the latch.
 */
extern void cqrs_link_turn(CqrsLink *link, bool paused);

/*
 * Send some messages; receive what has come, or a part of it, and return
 * whether there may be more.
 */
extern void cqrs_link_send(CqrsLink *link);
extern bool cqrs_link_receive(CqrsLink *link);

/* Give the connection up, if there is one. */
extern void cqrs_link_close(CqrsLink *link);

extern bool cqrs_link_is_open(const CqrsLink *link);

/*
 * The socket to wait on, and whether for room to write as well;
 * PGINVALID_SOCKET without a connection.
 */
extern pgsocket cqrs_link_socket(const CqrsLink *link, bool *write);

/* How long nothing has to be done: 0 for not at all, -1 for ever. */
extern long cqrs_link_wait_ms(const CqrsLink *link, bool paused);

/* The state to show, as far as the broker is concerned. */
extern CqrsPublisherState cqrs_link_state(const CqrsLink *link);

#endif							/* CQRS_LINK_H */
