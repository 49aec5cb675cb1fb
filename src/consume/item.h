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

#include "apply/apply.h"
#include "base/once.h"
#include "consume/failed.h"
#include "consume/verdict.h"
#include "worker/kind.h"

typedef struct CqrsItem
{
	CqrsIncoming message;
	char	   *problem;		/* why it is no message, or NULL */
	bool		redelivered;	/* the broker says so */
	CqrsFailed *failed;			/* its row of cqrs.failed; NULL: it is new */
	bool		applied;		/* by the last transaction that took it */
	bool		done;			/* committed */
} CqrsItem;

/* A transaction that applies items of one owner. */
typedef struct CqrsRun
{
	Oid			owner;			/* InvalidOid: none yet */
	CqrsApplier *applier;		/* NULL: none yet */
	bool		any_failed;		/* cqrs.failed may have rows */
	bool		wrote_failed;	/* this transaction has written to it */
	bool		busy;			/* a retry was left out, because another
								 * transaction has its row */
	int64		counts[CQRS_WORKER_MAX_COUNTERS];	/* to be added at commit */
	List	   *passed_over;	/* names of replicas with messages that are
								 * for another transaction */
	List	   *waiting;		/* of CqrsWaitingRow: rows of replicas with a
								 * handler that had a retry put off */
	const CqrsReplica *replica; /* of the item at hand; NULL: unknown */
	CqrsOnce   *logged;			/* what the consumer has logged */
} CqrsRun;

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
