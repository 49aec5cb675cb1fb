/*-------------------------------------------------------------------------
 *
 * wake.h
 *	  What a transaction asks of publishers and launcher once it has ended.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_WAKE_H
#define CQRS_WAKE_H

#include "postgres.h"

/* Register the callback; called once, while the library is preloaded. */
extern void cqrs_wake_init(void);

/*
 * Once the current transaction has committed, have a publisher started for
 * this database, or the one that runs look at its settings in the catalog.
 */
extern void cqrs_wake_at_commit(void);

/* Once it has committed, have the launcher look at all databases again. */
extern void cqrs_wake_rescan_at_commit(void);

/*
 * Have the publishers leave this database until the transaction has ended;
 * wait until they have.
 */
extern void cqrs_wake_vacate(void);

#endif							/* CQRS_WAKE_H */
