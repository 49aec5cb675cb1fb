/*-------------------------------------------------------------------------
 *
 * wake.h
 *	  How backends reach the workers and the launcher.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_WAKE_H
#define CQRS_WAKE_H

#include "postgres.h"

#include "worker/kind.h"

/* Register the callback; called once, while the library is preloaded. */
extern void cqrs_wake_init(void);

/*
 * A transaction has committed that gives workers of the current database work:
 * wake those that wait for it.  The database has a slot.  Cannot fail.
 */
extern void cqrs_wake_listeners(CqrsWorkerKind kind);

/*
 * Have the launcher start workers for the current database, and those that run
 * look at the catalog.
 */
extern void cqrs_wake_want(CqrsWorkerKind kind);

/* The same, once the current transaction has committed. */
extern void cqrs_wake_want_at_commit(CqrsWorkerKind kind);

/* Have the launcher look at all databases again, once it has committed. */
extern void cqrs_wake_rescan_at_commit(void);

/*
 * Make all workers leave a database for some seconds, or the current one until
 * the transaction has ended; wait until they have.
 */
extern void cqrs_wake_vacate(Oid dboid);

#endif							/* CQRS_WAKE_H */
