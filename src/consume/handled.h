/*-------------------------------------------------------------------------
 *
 * handled.h
 *	  The messages that handlers have had, so that each is handled once.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_HANDLED_H
#define CQRS_HANDLED_H

#include "postgres.h"

#include "apply/envelope.h"

/*
 * Whether a message that has just been delivered is on the list.  "redelivered"
 * is what the broker says of the delivery.  Needs an active snapshot that has
 * been taken since the last add().
 */
extern bool cqrs_handled_has(const CqrsIncoming *message, bool redelivered);

/*
 * Whether two messages that have ids are one message: id and contents are the
 * same.
 */
extern bool cqrs_handled_is_same(const CqrsIncoming *a, const CqrsIncoming *b);

/*
 * Put a message on the list, in the current transaction; later lookups of this
 * transaction find it.
 */
extern void cqrs_handled_add(const CqrsIncoming *message);

/*
 * Empty the older table and use it from now on, if that is due and nobody holds
 * a lock.  The caller has acknowledged all messages of this connection that were
 * delivered before.  Does nothing most of the time; commits a transaction of
 * its own otherwise.
 */
extern void cqrs_handled_turn(void);

#endif							/* CQRS_HANDLED_H */
