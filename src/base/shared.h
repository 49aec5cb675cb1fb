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

#include "base/limits.h"

/*
 * States of a publisher.  STOPPED: no process.  STARTING → UNCONFIGURED,
 * PAUSED or CONNECTING.  UNCONFIGURED (no cqrs.url) → CONNECTING once a URL is
 * set.  PAUSED → CONNECTING on cqrs_resume().  CONNECTING → PUBLISHING, or
 * WAITING after a failure.  WAITING (for the next attempt, or for lane 0) →
 * CONNECTING.
 * PUBLISHING (connected) → BLOCKED while the broker asks for silence, WAITING
 * when the connection is lost, PAUSED, UNCONFIGURED.  BLOCKED → as PUBLISHING.
 * CONNECTING → STANDING_BY while another publisher has the lease → CONNECTING.
 * Lanes above 0 also get there from PUBLISHING and WAITING, when lane 0 does.
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

/* What the lanes of a database know of their lease at the broker. */
typedef enum CqrsLease
{
	CQRS_LEASE_NONE,			/* lane 0 is not connected */
	CQRS_LEASE_HELD,			/* it is */
	CQRS_LEASE_LOST				/* a copy of the database has taken over */
} CqrsLease;

/*
 * One publisher of a database.  Written by that process alone, except for what
 * cqrs_shared_set_lanes() resets while there is none.  Fields without
 * a note are protected by the lock of CqrsShared.
 */
typedef struct CqrsLane
{
	pid_t		pid;			/* 0 when there is no process */
	Latch	   *latch;			/* it lives in the process's PGPROC */
	pg_atomic_uint32 listens;	/* 1: a commit is to set the latch */

	/*
	 * What is confirmed or void, of the messages of this lane; see lane.c.
	 * Outlives the process.
	 */
	Oid			extension;		/* whose messages; read without the lock */
	pg_atomic_uint64 watermark; /* 0: not known */

	/*
	 * How far the lane is; see cqrs_shared_wait_published().  Written in this
	 * order.
	 */
	pg_atomic_uint64 unconfirmed_batch; /* the first one with a message that
										 * was read and is not confirmed;
										 * PG_UINT64_MAX: none, 0: there is
										 * more to read */
	pg_atomic_uint64 read_commits;	/* "commits" when that was read */
	pg_atomic_uint64 unsettled_batch;	/* all before it are confirmed or void */

	/* Statistics; readable without a lock. */
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
} CqrsLane;

/*
 * One database.  A slot is taken on the first use of the extension there and
 * given back when the database is gone; it survives its publishers.  Fields
 * without a note are protected by the lock of CqrsShared.
 */
typedef struct CqrsSlot
{
	Oid			dboid;			/* InvalidOid: the slot is free */

	bool		wanted;			/* the launcher shall keep publishers there */
	TimestampTz hold_until;		/* but not start one before this */
	ConditionVariable left;		/* broadcast when a publisher goes */

	pg_atomic_uint32 nlanes;	/* in force, 0: none yet; changes only while
								 * no publisher runs; readable without a lock */
	pg_atomic_uint64 next_batch;	/* next batch of ids, 0: not known yet */
	pg_atomic_uint64 commits;	/* transactions with messages, so that the
								 * publishers see if there is anything new */
	pg_atomic_uint32 calls;		/* how often the publishers were asked to look
								 * at the catalog */
	pg_atomic_uint32 segment;	/* the segment to write to; a hint */

	/* Written by lane 0. */
	pg_atomic_uint64 saved_watermark;
	pg_atomic_uint32 lease;		/* CqrsLease */

	ConditionVariable progress; /* broadcast when that of a lane moves */
	CqrsLane	lanes[CQRS_MAX_LANES];	/* those not in force keep their
										 * statistics */
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

/* A transaction with messages has committed here: wake who waits for that. */
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

/* A lane tells how far it is. */
extern void cqrs_shared_set_progress(CqrsSlot *slot, CqrsLane *lane,
									 uint64 unconfirmed_batch,
									 uint64 read_commits,
									 uint64 unsettled_batch);

/* Have the launcher look at all databases again. */
extern void cqrs_shared_wake_launcher(bool rescan);

/*
 * Have the launcher start publishers for the current database, and those that
 * run look around.
 */
extern void cqrs_shared_want_publisher(void);

/*
 * There is nothing to publish in a database, as somebody has found who read
 * slot->calls before he looked: unless they are wanted since then, publishers
 * are not started any more.
 */
extern void cqrs_shared_unwant_publisher(CqrsSlot *slot, uint32 calls);

/* Make the publishers leave a database for some seconds; wait until they have. */
extern void cqrs_shared_vacate(Oid dboid);

/*
 * Whether a database has a publisher; the caller holds the lock.  Tell them all
 * to end.
 */
extern bool cqrs_shared_is_occupied(const CqrsSlot *slot);
extern void cqrs_shared_end_publishers(CqrsSlot *slot);

/*
 * Have so many lanes from now on; the caller holds the lock exclusively, and
 * the database has no publisher.
 */
extern void cqrs_shared_set_lanes(CqrsSlot *slot, int nlanes);

/* Note an error of a publisher. */
extern void cqrs_shared_set_error(CqrsLane *lane, const char *message);

extern const char *cqrs_shared_state_name(CqrsPublisherState state);

#endif							/* CQRS_SHARED_H */
