/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  Processes that serve a database, known by its slot, their kind and their
 *	  number.
 *
 * There is one entry point, one loop and one launcher for all kinds.  What a
 * kind does is its class (kind.h).
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_WORKER_H
#define CQRS_WORKER_H

#include "postgres.h"

#include "worker/kind.h"

/*
 * Entry point of the background worker; the argument is the database, and
 * bgw_extra has kind and number, two ints.
 */
extern PGDLLEXPORT void cqrs_worker_main(Datum dboid);

/* What views show of this process. */
extern void cqrs_worker_set_state(int state);
extern void cqrs_worker_set_connected(bool connected);
extern void cqrs_worker_set_error(const char *message);
extern void cqrs_worker_count(int counter, int64 n);
extern void cqrs_worker_set_counter(int counter, int64 n);

/* How often processes of this kind were asked to look at the catalog. */
extern uint32 cqrs_worker_calls(const CqrsWorker *worker);

/*
 * There is nothing to do for this kind in the database, as somebody has found
 * who had read "calls" before: unless it is wanted since then, no process is
 * started any more.
 */
extern void cqrs_worker_unwant(const CqrsWorker *worker, uint32 calls);

/* Wake another process of this kind, or none where it does not run. */
extern void cqrs_worker_wake(const CqrsWorker *worker, int number);

/* Whether another process of this kind is connected. */
extern bool cqrs_worker_is_connected(const CqrsWorker *worker, int number);

/* Whether this process is one. */
extern bool cqrs_worker_is_here(void);

#endif							/* CQRS_WORKER_H */
