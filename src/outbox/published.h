/*-------------------------------------------------------------------------
 *
 * published.h
 *	  The progress of publishing in each database, in shared memory, and
 *	  waiting for it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_PUBLISHED_H
#define CQRS_PUBLISHED_H

#include "postgres.h"

#include "datatype/timestamp.h"

/*
 * The messages of this session so far.  A mark is later than all messages that
 * the session has committed when the mark is taken.  It is all zeros if there
 * are none.
 */
typedef struct CqrsMark
{
	uint64		commits;		/* of the database, the session's last one
								 * included */
	uint64		end_batch;		/* above all that were drawn by then */
} CqrsMark;

/* Ask for the shared memory; called once, while the library is preloaded. */
extern void cqrs_published_init(void);

/*
 * A transaction with messages has committed in the current database, which has
 * a slot: count it.  Cannot fail.
 */
extern void cqrs_published_count_commit(void);

/*
 * The number of such commits.  It shows publishers whether there is more to
 * read.
 */
extern uint64 cqrs_published_commits(int slot);

/* The mark of this session's last commit with messages. */
extern CqrsMark cqrs_published_mark(void);

/*
 * Wait until all messages up to a mark are confirmed.  Returns false if they
 * are not by the deadline (DT_NOEND: none).  The caller should hold no
 * snapshot that it does not need.
 */
extern bool cqrs_published_wait(const CqrsMark *mark, TimestampTz deadline);

/*
 * Change the number of lanes that share the messages.  The caller holds
 * cqrs_slot_lock exclusively, and no publisher runs.
 */
extern void cqrs_published_set_lanes(int slot, int nlanes);

/*
 * Set the progress of a lane.  "unconfirmed_batch" is the first batch with a
 * message that was read and is not confirmed, PG_UINT64_MAX if there is none,
 * 0 if there is more to read.  "read_commits" is the number of commits when
 * the outbox was read.
 */
extern void cqrs_published_set_progress(int slot, int lane,
										uint64 unconfirmed_batch,
										uint64 read_commits);

/*
 * The watermark of a lane: all of the lane's messages up to that id are
 * confirmed or void.  0 if it is not known.  It outlives the process.
 */
extern int64 cqrs_published_watermark(int slot, int lane);
extern void cqrs_published_set_watermark(int slot, int lane, int64 watermark);

#endif							/* CQRS_PUBLISHED_H */
