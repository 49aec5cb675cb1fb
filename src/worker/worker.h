/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  Processes that serve a database.  A process is identified by the slot of
 *	  its database, its kind and its number.
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

/* Set what the views show of this process. */
extern void cqrs_worker_set_state(int state);
extern void cqrs_worker_set_connected(bool connected);
extern void cqrs_worker_set_error(const char *message);

/* Advice about the broker that this process is connected to; "": none. */
extern void cqrs_worker_set_advice(const char *advice);

/* Add to a counter of this process, or set a gauge. */
extern void cqrs_worker_count(int counter, int64 n);
extern void cqrs_worker_set_counter(int counter, int64 n);

/*
 * What the context of this process's log messages names as its broker: the
 * address that it is connected to, or has tried last.
 */
extern void cqrs_worker_set_broker(const char *address);

/*
 * The number of requests so far to processes of this kind to look at the
 * catalog.
 */
extern uint32 cqrs_worker_calls(const CqrsWorker *worker);

/*
 * Report that this kind has nothing to do in the database.  "calls" is what
 * cqrs_worker_calls() returned before the caller found that out: unless the
 * kind has been wanted since then, no process of it is started any more.
 */
extern void cqrs_worker_unwant(const CqrsWorker *worker, uint32 calls);

/* Wake another process of this kind, if it runs. */
extern void cqrs_worker_wake(const CqrsWorker *worker, int number);

/* Whether another process of this kind is connected. */
extern bool cqrs_worker_is_connected(const CqrsWorker *worker, int number);

/*
 * Whether a shutdown request ends what runs, which no code of a user's can
 * prevent, or waits until the worker's turn is over.  Begins with false.  The
 * class's finish() is called in either case.
 */
extern void cqrs_worker_set_cancellable(bool cancellable);

/*
 * End the process, and with it a user's code, without finish(): the next
 * process finds everything as after a crash.  Safe in signal handlers.
 */
extern void cqrs_worker_fail(void);

/*
 * The transaction commits next, durably.  Until the next set_cancellable() a
 * user's request to cancel is ignored, since it would end the wait for a
 * synchronous standby, as if the standby had what was committed.
 */
extern void cqrs_worker_begin_commit(void);

/*
 * For durable_commits: synchronous_commit is "on" or stronger from now on.  A
 * function of a user may have lowered it.
 */
extern void cqrs_worker_ensure_durable(void);

/* Whether this process is a worker. */
extern bool cqrs_worker_is_here(void);

#endif							/* CQRS_WORKER_H */
