/*-------------------------------------------------------------------------
 *
 * desk.h
 *	  The consumer's work in the database, apart from applying messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_DESK_H
#define CQRS_DESK_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "consume/seat.h"
#include "worker/kind.h"

/* Read by the consumer; written by desk.c alone. */
typedef struct CqrsDesk
{
	const CqrsWorker *worker;
	uint32		calls;			/* cqrs_worker_calls() when the catalog was
								 * last looked at */
	uint64		generation;		/* cqrs_replica_generation(), the same */
	MemoryContext context;		/* of the next two */
	CqrsSeat   *seat;			/* NULL: this database consumes nothing */
	List	   *bindings;		/* what replicas need */

	bool		stale;			/* the next three are to be read again */
	bool		uncounted;		/* "waiting" was not */
	TimestampTz due_at;			/* when a failed message is due; 0: never */
	TimestampTz put_off_at;		/* when retries were put off; 0: not put off */
	TimestampTz failed_at;		/* when a turn has failed; 0: none has */
	uint64		looks;			/* how often seat and bindings were read */
	bool		reloaded;		/* seat and bindings are to be read again */
	int64		waiting;		/* failed messages that wait for a retry */
	TimestampTz counted_at;
	TimestampTz purged_at;		/* when dead letters were last removed */
	bool		more_to_purge;	/* there may be more of them */
} CqrsDesk;

/* Needs a transaction. */
extern CqrsDesk *cqrs_desk_create(const CqrsWorker *worker);

/*
 * Do what is due, in a transaction of its own.  Returns whether seat or
 * bindings may have changed.  Ends the process if the extension is gone.  After
 * an error, a lock for example, nothing is done for some seconds.
 */
extern bool cqrs_desk_turn(CqrsDesk *desk);

/* The settings have changed, which bindings depend on. */
extern void cqrs_desk_reload(CqrsDesk *desk);

/* Rows of cqrs.failed have been written. */
extern void cqrs_desk_failed_changed(CqrsDesk *desk);

/*
 * Put off all retries for a second, because other transactions have locked
 * rows of failed messages that are due.
 */
extern void cqrs_desk_put_off_retries(CqrsDesk *desk);

/* Milliseconds until a failed message is due; -1 if none is. */
extern long cqrs_desk_retry_wait_ms(const CqrsDesk *desk);

/* Whether cqrs.failed has as many rows that wait as it may have. */
extern bool cqrs_desk_is_full(const CqrsDesk *desk);

/*
 * The failed messages that are due, in the current context: as many as make a
 * batch, or with "one" a single one.  In a transaction of its own.  None after
 * an error.
 */
extern List *cqrs_desk_due(CqrsDesk *desk, bool one);

/* Milliseconds until something is due, without due_at. */
extern long cqrs_desk_wait_ms(const CqrsDesk *desk);

#endif							/* CQRS_DESK_H */
