/*-------------------------------------------------------------------------
 *
 * leftover.h
 *	  What users' code leaves in the session of the consumer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LEFTOVER_H
#define CQRS_LEFTOVER_H

#include "postgres.h"

/*
 * Reset the session after a transaction, committed or aborted, that has run
 * users' code.  No transaction is open.  Returns false if that is impossible:
 * until a later call succeeds, no users' code may run.
 */
extern bool cqrs_leftover_remove(void);

/* Whether the last call has succeeded. */
extern bool cqrs_leftover_is_removed(void);

#endif							/* CQRS_LEFTOVER_H */
