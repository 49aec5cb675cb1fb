/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  Messages that are applied together.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_BATCH_H
#define CQRS_BATCH_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "broker/transport.h"
#include "consume/intake.h"

/* The most messages of a batch, and of their bodies. */
#define CQRS_BATCH_MESSAGES	1000
#define CQRS_BATCH_BYTES	(16 * 1024 * 1024)

typedef struct CqrsBatch CqrsBatch;

typedef enum CqrsBatchStatus
{
	CQRS_BATCH_EMPTY,			/* there is none */
	CQRS_BATCH_WORKING,			/* step() goes on, when wait_ms() is 0 */
	CQRS_BATCH_STUCK,			/* the same, but nothing can be committed */
	CQRS_BATCH_DONE				/* all its messages are committed */
} CqrsBatchStatus;

/*
 * An empty batch, in TopMemoryContext.  The intake is served while it is
 * applied.
 */
extern CqrsBatch *cqrs_batch_create(CqrsIntake *intake);

/*
 * Begin with deliveries of a queue, which have to stay, or with rows of
 * cqrs.failed, which are copied.  The batch is empty.
 */
extern void cqrs_batch_take(CqrsBatch *batch, CqrsDelivery **deliveries, int n);
extern void cqrs_batch_take_failed(CqrsBatch *batch, List *failed);

/*
 * Read the messages, before the first step.  Not in a transaction.  An error
 * ends the process.
 */
extern void cqrs_batch_read(CqrsBatch *batch);

/*
 * digest: the digest of the only message of a batch, in the context of the
 * batch; it differs for each "purpose" (a small number).  condemn: make the
 * message a dead letter, because it has crashed the server.
 */
extern bytea *cqrs_batch_digest(CqrsBatch *batch, int purpose);
extern void cqrs_batch_condemn(CqrsBatch *batch);

/*
 * Do the next transaction of a batch that is WORKING or STUCK.  Raises no
 * errors of messages or of the database.  With a shutdown request pending it
 * returns early; a commit may then not have waited for a standby, so that
 * nothing may be acknowledged.
 */
extern void cqrs_batch_step(CqrsBatch *batch);

/* Forget the batch; it is then empty. */
extern void cqrs_batch_clear(CqrsBatch *batch);

/* What is to be done with the batch, and in how many milliseconds; 0: now. */
extern CqrsBatchStatus cqrs_batch_status(const CqrsBatch *batch);
extern long cqrs_batch_wait_ms(const CqrsBatch *batch);

/* Since when nothing can be committed: STUCK only. */
extern TimestampTz cqrs_batch_stuck_since(const CqrsBatch *batch);

/* Whether the batch is of cqrs.failed. */
extern bool cqrs_batch_is_retry(const CqrsBatch *batch);

/*
 * Whether a transaction has written to cqrs.failed since the last call.
 */
extern bool cqrs_batch_has_failed(CqrsBatch *batch);

/*
 * Whether a retry was left out since the last call, because another transaction
 * has its row.
 */
extern bool cqrs_batch_was_busy(CqrsBatch *batch);

/* A transaction clears the suspect of cqrs.consumer (seat.h). */
extern void cqrs_batch_set_wary(CqrsBatch *batch, bool wary);

/* The settings have changed: log everything anew. */
extern void cqrs_batch_reload(CqrsBatch *batch);

#endif							/* CQRS_BATCH_H */
