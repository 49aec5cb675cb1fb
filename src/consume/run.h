/*-------------------------------------------------------------------------
 *
 * run.h
 *	  A transaction that applies messages, and one of its messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_RUN_H
#define CQRS_RUN_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "apply/apply.h"
#include "base/once.h"
#include "consume/failed.h"
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
	List	   *put_off;		/* of CqrsPutOff (earlier.h) */
	const CqrsReplica *replica; /* of the item at hand; NULL: unknown */
	CqrsOnce   *logged;			/* what the consumer has logged */
	CqrsQuota  *quota;			/* how much of it */
} CqrsRun;

#endif							/* CQRS_RUN_H */
