/*-------------------------------------------------------------------------
 *
 * partition.h
 *	  Whether there is a partition for a row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_PARTITION_H
#define CQRS_PARTITION_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "utils/relcache.h"

/*
 * Whether a partitioned table has a partition for a row, of which the columns
 * of the partition keys are set.
 */
extern bool cqrs_partition_exists(Relation rel, TupleTableSlot *slot);

#endif							/* CQRS_PARTITION_H */
