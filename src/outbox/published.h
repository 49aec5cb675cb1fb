/*-------------------------------------------------------------------------
 *
 * published.h
 *	  How far the messages of a database are published, in shared memory; and
 *	  waiting for that.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_PUBLISHED_H
#define CQRS_PUBLISHED_H

#include "postgres.h"

#include "datatype/timestamp.h"

/*
 * The messages of this session so far.  A mark is later than all messages that
 * the session has committed when it is taken; zeros: there are none.
 */
typedef struct CqrsMark
{
	uint64		commits;		/* of the database, counting the last commit */
	uint64		end_batch;		/* above those that were drawn by then */
} CqrsMark;

/* Ask for the shared memory; called once, while the library is preloaded. */
extern void cqrs_published_init(void);

/*
 * A transaction with messages has committed in the current database, which has
 * a slot: count it.  Cannot fail.
 */
extern void cqrs_published_count_commit(void);

/* How many there are, so that publishers see whether there is anything new. */
extern uint64 cqrs_published_commits(int slot);

extern CqrsMark cqrs_published_mark(void);

/*
 * Wait until all messages up to a mark are confirmed, and return true, or
 * until a point in time (DT_NOEND: for ever).  The caller should hold no more
 * snapshots than it has to.
 */
extern bool cqrs_published_wait(const CqrsMark *mark, TimestampTz deadline);

/*
 * Another number of lanes share the messages from now on.  The caller holds
 * cqrs_slot_lock exclusively, and there is no publisher.
 */
extern void cqrs_published_set_lanes(int slot, int nlanes);

/*
 * A lane shows how far it is: "unconfirmed_batch" is the first one with a
 * message that was read and is not confirmed, PG_UINT64_MAX when there is none,
 * 0 when there is more to read; "read_commits" is the number of commits when
 * that was read.
 */
extern void cqrs_published_set_progress(int slot, int lane,
										uint64 unconfirmed_batch,
										uint64 read_commits);

/*
 * The watermark of a lane: of its messages, all up to that id are confirmed or
 * void; 0 when it is not known.  Outlives the process.
 */
extern int64 cqrs_published_watermark(int slot, int lane);
extern void cqrs_published_set_watermark(int slot, int lane, int64 watermark);

#endif							/* CQRS_PUBLISHED_H */
