/*-------------------------------------------------------------------------
 *
 * epoch.h
 *	  Which of the copies of a database consumes a queue.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_EPOCH_H
#define CQRS_EPOCH_H

#include "postgres.h"

#include "broker/session.h"

/* The epoch is raised this long after messages were acknowledged. */
#define CQRS_EPOCH_INTERVAL_MS	60000

typedef enum CqrsEpochResult
{
	CQRS_EPOCH_RAISED,
	CQRS_EPOCH_UNANSWERED,		/* raised here; the broker did not take the
								 * mark */
	CQRS_EPOCH_OVERTAKEN,		/* another database has consumed since */
	CQRS_EPOCH_FAILED			/* the connection is of no use */
} CqrsEpochResult;

/*
 * Compare the epoch with the mark of the queue, and raise both, the one in
 * cqrs.consumer first.  The session has the lease.  With "taking_over", the
 * mark may be higher.  *failure is set for UNANSWERED and FAILED.
 */
extern CqrsEpochResult cqrs_epoch_raise(CqrsSession *session,
										const char *queue, int64 *epoch,
										bool taking_over,
										CqrsFailure *failure);

#endif							/* CQRS_EPOCH_H */
