/*-------------------------------------------------------------------------
 *
 * resolve.h
 *	  From what a transaction has touched to its messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_RESOLVE_H
#define CQRS_RESOLVE_H

#include "postgres.h"

/*
 * Put the messages of all noted changes into the outbox.  Called while the
 * transaction commits or is being prepared; returns whether there were any.
 */
extern bool cqrs_resolve_all(void);

/*
 * The same in the middle of a transaction: later changes of the same rows make
 * messages of their own.  Returns the number of messages.
 */
extern int64 cqrs_resolve_flush(void);

#endif							/* CQRS_RESOLVE_H */
