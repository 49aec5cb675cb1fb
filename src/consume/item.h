/*-------------------------------------------------------------------------
 *
 * item.h
 *	  A message of a batch: what becomes of it, within a transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_ITEM_H
#define CQRS_ITEM_H

#include "postgres.h"

#include "consume/run.h"
#include "consume/verdict.h"

typedef enum CqrsStep
{
	CQRS_ITEM_SETTLED,			/* nothing is to be applied */
	CQRS_ITEM_APPLIES,			/* call apply() */
	CQRS_ITEM_OTHER_OWNER		/* for another transaction */
} CqrsStep;

/*
 * Whether the message is to be tried: a retry whose row is gone, or which another
 * transaction changes, is not.
 */
extern bool cqrs_item_take(CqrsRun *run, const CqrsItem *item);

/* What becomes of a message before it is applied. */
extern CqrsStep cqrs_item_begin(CqrsRun *run, CqrsItem *item);

/*
 * Apply the message, and keep the order of its row over failures.  Raises its
 * error.
 */
extern void cqrs_item_apply(CqrsRun *run, CqrsItem *item);

/*
 * Store a message that has failed.  With "counts", the attempt counts.  Does
 * not raise the errors of users' functions.
 */
extern void cqrs_item_fail(CqrsRun *run, CqrsItem *item,
						   const CqrsProblem *problem, bool counts);

#endif							/* CQRS_ITEM_H */
