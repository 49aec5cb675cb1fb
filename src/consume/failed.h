/*-------------------------------------------------------------------------
 *
 * failed.h
 *	  The rows of cqrs.failed: messages that could not be applied.
 *
 * All functions need a transaction, and an active snapshot.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_FAILED_H
#define CQRS_FAILED_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"

#include "apply/envelope.h"

#define CQRS_SQLSTATE_BYTES	6

/* A row of cqrs.failed. */
typedef struct CqrsFailed
{
	int64		id;				/* ascends in the order of arrival */
	char	   *cqrs_id;		/* NULL, as the next two: was not readable */
	char	   *instance_pk;
	CqrsSignal	signal;			/* 0 if NULL */
	char	   *message_id;		/* or NULL */
	bool		direct;
	TimestampTz received_at;
	int			attempts;		/* that have failed and count */
	TimestampTz next_try;		/* 0: a dead letter */
	Size		length;			/* of the body */
	char	   *body;			/* NULL if it was not asked for */
	char	   *error;			/* the same */
	ItemPointerData tid;		/* of this version */
} CqrsFailed;

/* The columns that are written for a failure. */
typedef struct CqrsFailedState
{
	int			attempts;
	TimestampTz next_try;		/* 0: a dead letter */
	const char *sqlstate;		/* or NULL */
	const char *error;
} CqrsFailedState;

/* Whether there are any rows. */
extern bool cqrs_failed_any(void);

/*
 * The failed messages of a row, below an id, in the order of their ids;
 * without bodies.
 */
extern List *cqrs_failed_find(const char *cqrs_id, const char *instance_pk,
							  int64 below);

/* A row with its body, or NULL. */
extern CqrsFailed *cqrs_failed_read(int64 id);

/*
 * Read the message of a row.  Returns false if the body is not a message,
 * which is then read as far as possible, or if the row is gone: then the body
 * is NULL.
 */
extern bool cqrs_failed_message(int64 id, CqrsIncoming *message);

/*
 * Lock a row up to the end of the transaction, without waiting.  Rows are to be
 * locked before they are written to.
 */
typedef enum CqrsFailedLock
{
	CQRS_FAILED_LOCKED,
	CQRS_FAILED_BUSY,			/* another transaction changes the row, or has
								 * just done so */
	CQRS_FAILED_GONE
} CqrsFailedLock;

extern CqrsFailedLock cqrs_failed_lock(int64 id);

/*
 * All failed messages of a row, as cqrs_failed_find() returns them but with
 * bodies, in their latest versions, and locked up to the end of the
 * transaction.  Waits for other transactions, as long as lock_timeout allows;
 * a transaction that keeps its snapshot gets an error instead if they have
 * changed a row.  For users only: the consumer does not wait.
 */
extern List *cqrs_failed_lock_all(const char *cqrs_id,
								  const char *instance_pk);

/* Add a message; later lookups of this transaction find it. */
extern void cqrs_failed_insert(const CqrsIncoming *message,
							   const CqrsFailedState *state);

/* Write the state of a row, if it exists. */
extern void cqrs_failed_update(int64 id, const CqrsFailedState *state);

/* Give a row the last place in the order, if it exists. */
extern void cqrs_failed_renew(int64 id);

/* Remove a row, if it exists. */
extern void cqrs_failed_delete(int64 id);

/*
 * Rows that are due, with bodies, in the order of their ids: up to "most", and
 * up to "most_bytes" of bodies, but at least one.
 */
extern List *cqrs_failed_due(int most, Size most_bytes);

/* When the next row is due; 0 if none ever is. */
extern TimestampTz cqrs_failed_next_due(void);

/* How many rows wait for a retry. */
extern int64 cqrs_failed_count_waiting(void);

/*
 * Remove up to 1000 of the dead letters that failed before a time.  Returns
 * whether there may be more of them.
 */
extern bool cqrs_failed_purge(TimestampTz before);

#endif							/* CQRS_FAILED_H */
