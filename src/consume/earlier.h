/*-------------------------------------------------------------------------
 *
 * earlier.h
 *	  Failed messages of a row, and the messages that come after them.
 *
 * All functions need a transaction, and an active snapshot.  run->replica is that
 * of the item.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_EARLIER_H
#define CQRS_EARLIER_H

#include "postgres.h"

#include "consume/run.h"

/* A row of a replica with a handler, of which this transaction put off a retry. */
typedef struct CqrsPutOff
{
	char	   *cqrs_id;
	char	   *instance_pk;
	TimestampTz next_try;
} CqrsPutOff;

/* The failed messages of the item's row that are earlier, in their order. */
extern List *cqrs_earlier_find(const CqrsRun *run, const CqrsItem *item);

/* Whether a failed message is this one, delivered again. */
extern bool cqrs_earlier_is_same(const CqrsFailed *failed, const CqrsItem *item);

/*
 * The last earlier message that is to be tried again, apart from the item: the
 * item waits for it.  NULL: the item does not wait.
 */
extern const CqrsFailed *cqrs_earlier_waiting(const List *earlier,
											  const CqrsItem *item);

/*
 * put_off: note that a retry of the row is put off.  find_put_off: find the
 * note, for a later retry of the row.  Many retries may be due, so they do not
 * look into cqrs.failed one by one.
 */
extern void cqrs_earlier_put_off(CqrsRun *run, const CqrsItem *item,
								 TimestampTz next_try);
extern const CqrsPutOff *cqrs_earlier_find_put_off(const CqrsRun *run,
												   const CqrsItem *item);

/* Whether a DELETE has failed. */
extern bool cqrs_earlier_has_delete(const List *earlier);

/*
 * Lock the messages that the item has to remove if it changes the table's row.
 * For a SAVE these are each SYNC, and a DELETE with all messages before it;
 * otherwise all.  Returns false if another transaction has locked one of them.
 */
extern bool cqrs_earlier_lock(const List *earlier, const CqrsItem *item);

/* The item is applied: remove the messages that are of no use any more. */
extern void cqrs_earlier_settle(CqrsRun *run, const List *earlier,
								const CqrsItem *item, CqrsOutcome outcome);

#endif							/* CQRS_EARLIER_H */
