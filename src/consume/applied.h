/*-------------------------------------------------------------------------
 *
 * applied.h
 *	  The commits of the consumer of each database, in shared memory, and
 *	  waiting for the next one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_APPLIED_H
#define CQRS_APPLIED_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* Ask for the shared memory; called once, while the library is preloaded. */
extern void cqrs_applied_init(void);

/*
 * The consumer of the current database has committed.  Wakes the sessions that
 * wait.
 */
extern void cqrs_applied_count_commit(void);

/* The number of commits of the consumer of the current database. */
extern uint64 cqrs_applied_commits(void);

/*
 * Wait until the number of commits differs from "commits".  Returns false if
 * it does not differ by the deadline (DT_NOEND: none).
 */
extern bool cqrs_applied_wait(uint64 commits, TimestampTz deadline);

#endif							/* CQRS_APPLIED_H */
