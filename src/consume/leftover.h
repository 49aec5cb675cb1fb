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
 * Remove it, after a transaction that has run users' code, committed or
 * aborted.  No transaction is open.  Raises an error if that is impossible.
 */
extern void cqrs_leftover_remove(void);

#endif							/* CQRS_LEFTOVER_H */
