/*-------------------------------------------------------------------------
 *
 * batch_parts.h
 *	  What the files of the batch share: batch.c and batch_run.c.  They include
 *	  batch.h before it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_BATCH_PARTS_H
#define CQRS_BATCH_PARTS_H

#include "postgres.h"

#include "base/once.h"
#include "consume/intake.h"
#include "consume/item.h"

typedef enum CqrsBatchMode
{
	CQRS_BATCH_MODE_TOGETHER,
	CQRS_BATCH_MODE_SINGLY,
	CQRS_BATCH_MODE_ALONE,
	CQRS_BATCH_MODE_STORE
} CqrsBatchMode;

struct CqrsBatch
{
	CqrsIntake *intake;
	MemoryContext context;		/* of the messages */
	MemoryContext scratch;		/* of one message */
	CqrsItem   *items;
	int			nitems;
	int			ndone;
	bool		retry;			/* of cqrs.failed */
	TimestampTz retry_since;	/* retry: when it began */
	bool		cut;			/* retry: the rest is for another batch */
	bool		wary;			/* there may be a suspect */

	CqrsBatchMode mode;
	int			alone;			/* messages that are still to be tried ALONE */
	int			tries;			/* of the first message, so far */
	List	   *tried_out;		/* names of replicas for which there is no
								 * patience */
	CqrsProblem problem;		/* STORE: of the first message */
	bool		counts;			/* STORE: whether the attempt counts */
	TimestampTz try_at;			/* no transaction before this */
	TimestampTz stuck_since;	/* 0: not stuck */
	int			stuck;			/* failures in a row while stuck */

	bool		has_failed;		/* for cqrs_batch_has_failed() */
	bool		was_busy;		/* for cqrs_batch_was_busy() */
	CqrsOnce	logged;
	CqrsQuota	quota;			/* what is logged about messages */
};

/* What a transaction is doing; read after the transaction has failed. */
typedef struct CqrsBatchProgress
{
	CqrsRun		run;
	TimestampTz began_at;		/* of the run */
	TimestampTz item_at;		/* of the message at hand */
	int			ntaken;
	int			taken[CQRS_BATCH_MESSAGES];
	bool		halted;			/* the next message needs patience */
} CqrsBatchProgress;

/* The most subtransactions of a transaction. */
#define CQRS_BATCH_SINGLY	60

/* Once in the process. */
extern void cqrs_batch_run_init(void);

/*
 * Run a transaction, and commit it.  After an error "progress" shows what the
 * transaction was doing.
 */
extern void cqrs_batch_run_transaction(CqrsBatch *batch,
									   CqrsBatchProgress *progress);

/*
 * End the time limit of a message.  A signal that has come too late cancels
 * nothing.
 */
extern void cqrs_batch_run_end_time_limit(void);

/* Whether the message at hand has taken longer than cqrs.apply_timeout. */
extern bool cqrs_batch_run_is_time_over(const CqrsBatchProgress *progress);

/* Whether a message is tried again after an error that may pass. */
extern bool cqrs_batch_has_patience(const CqrsBatch *batch,
									const CqrsItem *item);
extern void cqrs_batch_lose_patience(CqrsBatch *batch, const CqrsItem *item);

/* Whether patience with the replica of a message was lost, and not regained. */
extern bool cqrs_batch_is_tried_out(const CqrsBatch *batch,
									const CqrsItem *item);

#endif							/* CQRS_BATCH_PARTS_H */
