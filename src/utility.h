/*-------------------------------------------------------------------------
 *
 * utility.h
 *	  Commands that publishers have to hear of.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_UTILITY_H
#define CQRS_UTILITY_H

#include "postgres.h"

/* Install the hook; called once, while the library is preloaded. */
extern void cqrs_utility_init(void);

/*
 * Once the current transaction has committed, have a publisher started for
 * this database, or the one that runs look at its settings in the catalog.
 */
extern void cqrs_utility_wake_at_commit(void);

#endif							/* CQRS_UTILITY_H */
