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
 * wake those that listen for commits.  The database has a slot.  Cannot fail.
 */
extern void cqrs_wake_listeners(CqrsWorkerKind kind);

/*
 * Have the launcher start workers for the current database, and have running
 * ones look at the catalog.
 */
extern void cqrs_wake_want(CqrsWorkerKind kind);

/* The same, if such workers are wanted already. */
extern void cqrs_wake_wanted(CqrsWorkerKind kind);

/* Have workers started, once the current transaction has committed. */
extern void cqrs_wake_want_at_commit(CqrsWorkerKind kind);

/*
 * Have the launcher read the list of databases, once the current transaction
 * has committed.
 */
extern void cqrs_wake_rescan_at_commit(void);

/*
 * The current transaction has changed the settings of a database: once it has
 * committed, all workers of that database end, and start with the new ones.
 */
extern void cqrs_wake_resettle_at_commit(Oid dboid);

/* The same, when the settings have changed already. */
extern void cqrs_wake_resettle(Oid dboid);

/*
 * Make all workers leave a database, and wait until they have left.  They stay
 * away for some seconds, or if it is the current database until the
 * transaction has ended.
 */
extern void cqrs_wake_vacate(Oid dboid);

#endif							/* CQRS_WAKE_H */
