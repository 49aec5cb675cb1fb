/*-------------------------------------------------------------------------
 *
 * eligible.h
 *	  Which tables can have masters.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_ELIGIBLE_H
#define CQRS_ELIGIBLE_H

#include "postgres.h"

#include "utils/relcache.h"

/*
 * These raise an error if a table cannot be registered.  The caller has the
 * table open, and has changed nothing yet.
 */
extern void cqrs_eligible_check_table(Relation rel);

/* Partitions and chunks of hypertables cannot. */
extern void cqrs_eligible_check_not_partition(Relation rel);

/* Lock the partitions of a table against writers, and check each. */
extern void cqrs_eligible_check_partitions(Oid relid);

#endif							/* CQRS_ELIGIBLE_H */
