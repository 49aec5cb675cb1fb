/*-------------------------------------------------------------------------
 *
 * watch.h
 *	  What a worker looks for in the catalog besides its own work.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_WATCH_H
#define CQRS_WATCH_H

#include "worker/kind.h"

/*
 * Have workers of other kinds started where they have work.  Called once, in a
 * transaction with a snapshot.  "calls" was read before.
 */
extern void cqrs_watch_begin(const CqrsWorker *worker, uint32 calls);

/* The same, each turn, if somebody has asked for a look at the catalog. */
extern void cqrs_watch_turn(const CqrsWorker *worker);

#endif							/* CQRS_WATCH_H */
