/*-------------------------------------------------------------------------
 *
 * published.c
 *	  How far the messages of a database are published, in shared memory; and
 *	  waiting for that.
 *
 * Written by the publishers, each its lane, and read by who waits.  All of it
 * are atomics; the number of lanes, which changes only while no publisher runs,
 * is protected by cqrs_slot_lock.
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
#include "base/slot.h"
#include "outbox/message.h"
#include "outbox/published.h"
#include "outbox/writer.h"

/* Written in the order of the fields. */
typedef struct Lane
{
	pg_atomic_uint64 unconfirmed_batch;
	pg_atomic_uint64 read_commits;
	pg_atomic_uint64 watermark;
} Lane;

typedef struct Published
{
	pg_atomic_uint64 commits;	/* transactions with messages */
	ConditionVariable progress; /* broadcast when that of a lane moves */
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
	while (!(done = is_published(here, mark)))
	{
		long		wait_ms = -1;

		CHECK_FOR_INTERRUPTS();
		if (!TIMESTAMP_IS_NOEND(deadline))
		{
			wait_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
													  deadline);
			if (wait_ms <= 0)
				break;
		}
		(void) ConditionVariableTimedSleep(&here->progress, wait_ms,
										   cqrs_wait_event(CQRS_WAIT_PUBLISHED));
	}
	ConditionVariableCancelSleep();
	return done;
}

void
cqrs_published_set_lanes(int slot, int nlanes)
{
	Published  *here = &published[slot];

	/* Messages are other lanes' now; nothing of this holds any more. */
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

/* The lanes are reset by set_lanes(). */
static void
reset_published(void *element)
{
	pg_atomic_write_u64(&((Published *) element)->commits, 0);
}

/* Waits for all lanes: a backend does not know which one a message belongs to. */
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
 * Either everything below the mark is settled, or it has all been read since
 * it was committed and what was read is confirmed.  The second way does not
 * mind the open transactions of others, which hold the watermark back; the
 * first one works while there is always more to read.
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

/* All batches before this one are confirmed or void, with that watermark. */
static uint64
settled_batch(int64 watermark)
{
	return (uint64) cqrs_batch_of(watermark + 1);
}
