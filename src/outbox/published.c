/*-------------------------------------------------------------------------
 *
 * published.c
 *	  The progress of publishing in each database, in shared memory, and
 *	  waiting for it.
 *
 * Each publisher writes the progress of its lane; backends that wait read it.
 * All fields are atomics, except the number of lanes: it changes only while no
 * publisher runs, and is protected by cqrs_slot_lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/limits.h"
#include "base/sleep.h"
#include "base/slot.h"
#include "outbox/message.h"
#include "outbox/published.h"
#include "outbox/outbox.h"

/* The progress of a lane.  The fields are written in this order. */
typedef struct Lane
{
	pg_atomic_uint64 unconfirmed_batch;
	pg_atomic_uint64 read_commits;
	pg_atomic_uint64 watermark;
} Lane;

typedef struct Published
{
	pg_atomic_uint64 commits;	/* transactions with messages */
	ConditionVariable progress; /* broadcast when a lane's progress changes */
	int			nlanes;			/* 0: not known yet */
	Lane		lanes[CQRS_MAX_LANES];
} Published;

static Published *published;	/* by slot */
static CqrsMark my_mark;

static void init_published(void *element);
static void reset_published(void *element);
static bool is_published(Published *here, const CqrsMark *mark);
static bool lane_has_published(Lane *lane, const CqrsMark *mark);
static uint64 settled_batch(int64 watermark);

void
cqrs_published_init(void)
{
	static const CqrsSharedArray array = {
		.name = "cqrs published",
		.size = sizeof(Published),
		.by_slot = true,
		.elements = (void **) &published,
		.init = init_published,
		.reset = reset_published
	};

	cqrs_slot_add_array(&array);
}

void
cqrs_published_count_commit(void)
{
	int			slot = cqrs_slot_mine();
	uint64		next_batch;

	my_mark.commits = pg_atomic_fetch_add_u64(&published[slot].commits, 1) + 1;
	next_batch = cqrs_outbox_next_batch(slot);
	my_mark.end_batch = next_batch == 0 ? PG_UINT64_MAX : next_batch;
}

uint64
cqrs_published_commits(int slot)
{
	return pg_atomic_read_u64(&published[slot].commits);
}

CqrsMark
cqrs_published_mark(void)
{
	return my_mark;
}

bool
cqrs_published_wait(const CqrsMark *mark, TimestampTz deadline)
{
	Published  *here = &published[cqrs_slot_mine()];
	bool		done;

	ConditionVariablePrepareToSleep(&here->progress);
	while (!(done = is_published(here, mark)) &&
		   cqrs_sleep_until(&here->progress, deadline, CQRS_WAIT_PUBLISHED))
		;
	ConditionVariableCancelSleep();
	return done;
}

void
cqrs_published_set_lanes(int slot, int nlanes)
{
	Published  *here = &published[slot];

	/* Messages belong to other lanes now, so the progress so far is void. */
	for (int i = 0; i < CQRS_MAX_LANES; i++)
	{
		pg_atomic_write_u64(&here->lanes[i].unconfirmed_batch, 0);
		pg_atomic_write_u64(&here->lanes[i].read_commits, 0);
		pg_atomic_write_u64(&here->lanes[i].watermark, 0);
	}
	here->nlanes = nlanes;
}

void
cqrs_published_set_progress(int slot, int lane, uint64 unconfirmed_batch,
							uint64 read_commits)
{
	Lane	   *mine = &published[slot].lanes[lane];

	if (pg_atomic_read_u64(&mine->unconfirmed_batch) == unconfirmed_batch &&
		pg_atomic_read_u64(&mine->read_commits) == read_commits)
		return;
	pg_atomic_write_u64(&mine->unconfirmed_batch, unconfirmed_batch);
	pg_write_barrier();
	pg_atomic_write_u64(&mine->read_commits, read_commits);
	ConditionVariableBroadcast(&published[slot].progress);
}

int64
cqrs_published_watermark(int slot, int lane)
{
	return (int64) pg_atomic_read_u64(&published[slot].lanes[lane].watermark);
}

void
cqrs_published_set_watermark(int slot, int lane, int64 watermark)
{
	int64		before = cqrs_published_watermark(slot, lane);

	pg_atomic_write_u64(&published[slot].lanes[lane].watermark, watermark);
	if (settled_batch(before) != settled_batch(watermark))
		ConditionVariableBroadcast(&published[slot].progress);
}

static void
init_published(void *element)
{
	Published  *here = element;

	pg_atomic_init_u64(&here->commits, 0);
	ConditionVariableInit(&here->progress);
	for (int i = 0; i < CQRS_MAX_LANES; i++)
	{
		pg_atomic_init_u64(&here->lanes[i].unconfirmed_batch, 0);
		pg_atomic_init_u64(&here->lanes[i].read_commits, 0);
		pg_atomic_init_u64(&here->lanes[i].watermark, 0);
	}
}

/* cqrs_published_set_lanes() resets the lanes. */
static void
reset_published(void *element)
{
	pg_atomic_write_u64(&((Published *) element)->commits, 0);
}

/*
 * Checks all lanes: a backend does not know which lane a message belongs to.
 */
static bool
is_published(Published *here, const CqrsMark *mark)
{
	bool		done;

	if (mark->commits == 0)
		return true;

	LWLockAcquire(cqrs_slot_lock, LW_SHARED);
	done = here->nlanes > 0;
	for (int i = 0; i < here->nlanes && done; i++)
		done = lane_has_published(&here->lanes[i], mark);
	LWLockRelease(cqrs_slot_lock);
	return done;
}

/*
 * The lane has published the messages up to the mark if everything below the
 * mark is settled, or if the lane has read the outbox since they were
 * committed and has the confirms of all that it read below the mark.  The
 * second condition does not depend on open transactions of others, which hold
 * the watermark back.  The first one also becomes true while there is always
 * more to read.
 */
static bool
lane_has_published(Lane *lane, const CqrsMark *mark)
{
	uint64		read_commits;

	if (settled_batch(pg_atomic_read_u64(&lane->watermark)) >= mark->end_batch)
		return true;
	read_commits = pg_atomic_read_u64(&lane->read_commits);
	pg_read_barrier();
	return read_commits >= mark->commits &&
		pg_atomic_read_u64(&lane->unconfirmed_batch) >= mark->end_batch;
}

/*
 * The batch before which all batches are confirmed or void, given a watermark.
 */
static uint64
settled_batch(int64 watermark)
{
	return (uint64) cqrs_batch_of(watermark + 1);
}
