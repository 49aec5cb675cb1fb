/*-------------------------------------------------------------------------
 *
 * shared.h
 *	  What backends, publishers and the launcher share in memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_SHARED_H
#define CQRS_SHARED_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

/*
 * States of a publisher.  STOPPED: no process.  STARTING → UNCONFIGURED,
 * PAUSED or CONNECTING.  UNCONFIGURED (no cqrs.url) → CONNECTING once a URL is
 * set.  PAUSED → CONNECTING on cqrs_resume().  CONNECTING → PUBLISHING, or
 * WAITING after a failure.  WAITING (for the next attempt) → CONNECTING.
 * PUBLISHING (connected) → BLOCKED while the broker asks for silence, WAITING
 * when the connection is lost, PAUSED, UNCONFIGURED.  BLOCKED → as PUBLISHING.
 * CONNECTING → STANDING_BY while another publisher has the lease → CONNECTING.
 * Any → STOPPED.
 */
typedef enum CqrsPublisherState
{
	CQRS_STOPPED,
	CQRS_STARTING,
	CQRS_UNCONFIGURED,
	CQRS_PAUSED,
	CQRS_CONNECTING,
	CQRS_PUBLISHING,
	CQRS_BLOCKED,
	CQRS_WAITING,
	CQRS_STANDING_BY
} CqrsPublisherState;

#define CQRS_ERROR_BYTES 512

/*
 * One database.  A slot is taken on the first use of the extension there and
 * given back when the database is gone; it survives its publisher.  Fields
 * without a note are protected by the lock of CqrsShared.
 */
typedef struct CqrsSlot
{
	Oid			dboid;			/* InvalidOid: the slot is free */

	pid_t		pid;			/* of the publisher, 0 when there is none */
	Latch	   *latch;			/* of the publisher; it lives in its PGPROC */
	bool		wanted;			/* the launcher shall keep a publisher there */
	TimestampTz hold_until;		/* but not start one before this */
	ConditionVariable left;		/* broadcast when the publisher goes */

	pg_atomic_uint64 next_batch;	/* next batch of ids, 0: not known yet */
	pg_atomic_uint64 commits;	/* transactions with messages, so that the
								 * publisher sees if there is anything new */

	/*
	 * How far the publisher is; see cqrs_shared_wait_published().  Written by
	 * the publisher alone, in this order.
	 */
	pg_atomic_uint64 unconfirmed_batch; /* the first one with a message that
										 * was read and is not confirmed;
										 * PG_UINT64_MAX: none, 0: there is
										 * more to read */
	pg_atomic_uint64 read_commits;	/* "commits" when that was read */
	pg_atomic_uint64 unsettled_batch;	/* all before it are confirmed or void */
	ConditionVariable progress; /* broadcast when one of them moves */

	pg_atomic_uint32 segment;	/* the segment to write to; a hint */

	/* Statistics; written by the publisher alone, readable without a lock. */
	pg_atomic_uint32 state;		/* CqrsPublisherState */
	pg_atomic_uint64 published; /* messages sent, resends included */
	pg_atomic_uint64 confirmed;
	pg_atomic_uint64 returned;
	pg_atomic_uint64 nacked;
	pg_atomic_uint64 connects;	/* connections established */
	pg_atomic_uint64 errors;
	pg_atomic_uint64 held;		/* masters whose messages are held now */

	TimestampTz started_at;
	TimestampTz connected_at;	/* 0: not connected */
	TimestampTz last_error_at;	/* 0: none */
	char		last_error[CQRS_ERROR_BYTES];
} CqrsSlot;

typedef struct CqrsShared
{
	LWLock	   *lock;
	Latch	   *launcher;		/* NULL when there is none */
	bool		rescan;			/* the set of databases has changed */
	TimestampTz since;			/* start of the counters */
	int			nslots;
	CqrsSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} CqrsShared;

extern CqrsShared *cqrs_shared;

/* Ask for the shared memory; called once, while the library is preloaded. */
extern void cqrs_shared_init(void);

/* The slot of a database; a new one if need be, or NULL when !create. */
extern CqrsSlot *cqrs_shared_slot(Oid dboid, bool create);

/* The slot of the current database, taken if need be. */
extern CqrsSlot *cqrs_shared_my_slot(void);

/* A transaction with messages has committed here: wake the publisher. */
extern void cqrs_shared_wake_publisher(void);

/*
 * The messages of this session so far.  A mark is later than all messages that
 * the session has committed when it is taken; zeros: there are none.
 */
typedef struct CqrsMark
{
	uint64		commits;		/* of the slot, counting the last commit */
	uint64		end_batch;		/* above those that were drawn by then */
} CqrsMark;

extern CqrsMark cqrs_shared_mark(void);

/*
 * Wait until all messages up to a mark are confirmed, and return true, or
 * until a point in time (DT_NOEND: for ever).  The caller should hold no more
 * snapshots than it has to.
 */
extern bool cqrs_shared_wait_published(const CqrsMark *mark,
									   TimestampTz deadline);

/* The publisher tells how far it is. */
extern void cqrs_shared_set_progress(CqrsSlot *slot, uint64 unconfirmed_batch,
									 uint64 read_commits,
									 uint64 unsettled_batch);

/* Have the launcher look at all databases again. */
extern void cqrs_shared_wake_launcher(bool rescan);

/* Have the launcher start a publisher for the current database. */
extern void cqrs_shared_want_publisher(void);

/* Make the publisher leave a database for some seconds; wait until it has. */
extern void cqrs_shared_vacate(Oid dboid);

/* Note an error of the publisher of "slot". */
extern void cqrs_shared_set_error(CqrsSlot *slot, const char *message);

extern const char *cqrs_shared_state_name(CqrsPublisherState state);

#endif							/* CQRS_SHARED_H */
