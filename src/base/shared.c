/*-------------------------------------------------------------------------
 *
 * shared.c
 *	  What backends, publishers and the launcher share in memory.
 *
 * A fixed array of slots, one for a database with the extension, each with a
 * fixed array of lanes, one for a publisher (lane.c).  Taking and giving back
 * slots, the number of lanes, the processes' pids and latches, and the last
 * error are protected by one LWLock; it is held for a few instructions, never
 * while waiting, and never on the way of a commit.  What a commit needs
 * (drawing ids, waking the publishers) is atomics, and latches that stay valid
 * memory for the life of the server.
 *
 * Nothing here survives a restart and nothing has to: ids are derived from
 * the outbox again, and publishers read everything above their watermark.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "base/compat.h"
#include "base/guc.h"
#include "base/shared.h"

/* How long a database is left alone after a command that needs it empty. */
#define VACATE_HOLD_MS	10000
/* How long such a command waits for the publishers at the most. */
#define VACATE_WAIT_MS	5000

CqrsShared *cqrs_shared;

static CqrsMark my_mark;

static shmem_request_hook_type previous_shmem_request_hook;
static shmem_startup_hook_type previous_shmem_startup_hook;

static void request_memory(void);
static void startup(void);
static void init_slot(CqrsSlot *slot);
static Size memory_size(void);
static bool wake_lanes(CqrsSlot *slot, bool all);
static bool is_published(CqrsSlot *slot, const CqrsMark *mark);
static bool lane_has_published(CqrsLane *lane, const CqrsMark *mark);
static CqrsSlot *find_slot(Oid dboid);
static CqrsSlot *take_slot(Oid dboid);
static void reset_statistics(CqrsLane *lane);

void
cqrs_shared_init(void)
{
	CQRS_REQUEST_SHMEM(previous_shmem_request_hook, request_memory);
	previous_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup;
}

CqrsSlot   *
cqrs_shared_slot(Oid dboid, bool create)
{
	CqrsSlot   *slot;

	LWLockAcquire(cqrs_shared->lock, create ? LW_EXCLUSIVE : LW_SHARED);
	slot = find_slot(dboid);
	if (slot == NULL && create)
		slot = take_slot(dboid);
	LWLockRelease(cqrs_shared->lock);

	if (slot == NULL && create)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many databases use the extension \"cqrs\""),
				 errdetail("The server has room for %d.",
						   cqrs_shared->nslots),
				 errhint("Increase \"cqrs.max_databases\" and restart the server.")));
	return slot;
}

CqrsSlot   *
cqrs_shared_my_slot(void)
{
	static CqrsSlot *my_slot = NULL;

	/* A slot is given back only when its database is gone. */
	if (my_slot == NULL)
		my_slot = cqrs_shared_slot(MyDatabaseId, true);
	return my_slot;
}

void
cqrs_shared_wake_publisher(void)
{
	CqrsSlot   *slot = cqrs_shared_my_slot();
	uint64		next_batch;

	my_mark.commits = pg_atomic_fetch_add_u64(&slot->commits, 1) + 1;
	next_batch = pg_atomic_read_u64(&slot->next_batch);
	my_mark.end_batch = next_batch == 0 ? PG_UINT64_MAX : next_batch;

	if (!wake_lanes(slot, false) && !*(volatile bool *) &slot->wanted)
		cqrs_shared_want_publisher();
}

/*
 * Wake all publishers, or those that wait for commits.  One that does not will
 * look at "commits" before it waits for them.  Returns whether there is any.
 */
static bool
wake_lanes(CqrsSlot *slot, bool all)
{
	uint32		nlanes = pg_atomic_read_u32(&slot->nlanes);
	bool		found = false;

	for (uint32 i = 0; i < nlanes; i++)
	{
		CqrsLane   *lane = &slot->lanes[i];

		/* Reading a pointer needs no lock; a stale latch is set in vain. */
		Latch	   *latch = *(Latch *volatile *) &lane->latch;

		if (latch == NULL)
			continue;
		if (all || pg_atomic_read_u32(&lane->listens) != 0)
			SetLatch(latch);
		found = true;
	}
	return found;
}

CqrsMark
cqrs_shared_mark(void)
{
	return my_mark;
}

bool
cqrs_shared_wait_published(const CqrsMark *mark, TimestampTz deadline)
{
	CqrsSlot   *slot = cqrs_shared_my_slot();
	bool		published;

	ConditionVariablePrepareToSleep(&slot->progress);
	while (!(published = is_published(slot, mark)))
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
		(void) ConditionVariableTimedSleep(&slot->progress, wait_ms,
										   cqrs_wait_event(CQRS_WAIT_PUBLISHED));
	}
	ConditionVariableCancelSleep();
	return published;
}

/* Every lane has to have come so far; which of them has what nobody knows. */
static bool
is_published(CqrsSlot *slot, const CqrsMark *mark)
{
	uint32		nlanes;
	bool		published;

	if (mark->commits == 0)
		return true;

	/* The lock keeps the number of lanes. */
	LWLockAcquire(cqrs_shared->lock, LW_SHARED);
	nlanes = pg_atomic_read_u32(&slot->nlanes);
	published = nlanes > 0;
	for (uint32 i = 0; i < nlanes && published; i++)
		published = lane_has_published(&slot->lanes[i], mark);
	LWLockRelease(cqrs_shared->lock);
	return published;
}

/*
 * Either everything below the mark is settled, or it has all been read since
 * it was committed and what was read is confirmed.  The second way does not
 * mind the open transactions of others, which hold the watermark back; the
 * first one works while there is always more to read.
 */
static bool
lane_has_published(CqrsLane *lane, const CqrsMark *mark)
{
	uint64		read_commits;

	if (pg_atomic_read_u64(&lane->unsettled_batch) >= mark->end_batch)
		return true;
	read_commits = pg_atomic_read_u64(&lane->read_commits);
	pg_read_barrier();
	return read_commits >= mark->commits &&
		pg_atomic_read_u64(&lane->unconfirmed_batch) >= mark->end_batch;
}

void
cqrs_shared_set_progress(CqrsSlot *slot, CqrsLane *lane,
						 uint64 unconfirmed_batch, uint64 read_commits,
						 uint64 unsettled_batch)
{
	if (pg_atomic_read_u64(&lane->unconfirmed_batch) == unconfirmed_batch &&
		pg_atomic_read_u64(&lane->read_commits) == read_commits &&
		pg_atomic_read_u64(&lane->unsettled_batch) == unsettled_batch)
		return;
	pg_atomic_write_u64(&lane->unconfirmed_batch, unconfirmed_batch);
	pg_write_barrier();
	pg_atomic_write_u64(&lane->read_commits, read_commits);
	pg_atomic_write_u64(&lane->unsettled_batch, unsettled_batch);
	ConditionVariableBroadcast(&slot->progress);
}

void
cqrs_shared_wake_launcher(bool rescan)
{
	LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
	if (rescan)
		cqrs_shared->rescan = true;
	if (cqrs_shared->launcher != NULL)
		SetLatch(cqrs_shared->launcher);
	LWLockRelease(cqrs_shared->lock);
}

void
cqrs_shared_want_publisher(void)
{
	CqrsSlot   *slot = cqrs_shared_my_slot();

	LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
	slot->wanted = true;
	slot->hold_until = 0;
	pg_atomic_fetch_add_u32(&slot->calls, 1);
	(void) wake_lanes(slot, true);
	if (cqrs_shared->launcher != NULL)
		SetLatch(cqrs_shared->launcher);
	LWLockRelease(cqrs_shared->lock);
}

void
cqrs_shared_unwant_publisher(CqrsSlot *slot, uint32 calls)
{
	LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
	if (pg_atomic_read_u32(&slot->calls) == calls)
		slot->wanted = false;
	LWLockRelease(cqrs_shared->lock);
}

void
cqrs_shared_vacate(Oid dboid)
{
	CqrsSlot   *slot = cqrs_shared_slot(dboid, false);
	TimestampTz deadline;

	if (slot == NULL)
		return;

	LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
	slot->hold_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   VACATE_HOLD_MS);
	LWLockRelease(cqrs_shared->lock);
	cqrs_shared_end_publishers(slot);

	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
										   VACATE_WAIT_MS);
	ConditionVariablePrepareToSleep(&slot->left);
	for (;;)
	{
		bool		gone;
		long		wait_ms;

		LWLockAcquire(cqrs_shared->lock, LW_SHARED);
		gone = slot->dboid != dboid || !cqrs_shared_is_occupied(slot);
		LWLockRelease(cqrs_shared->lock);

		wait_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
												  deadline);
		if (gone || wait_ms <= 0)
			break;
		ConditionVariableTimedSleep(&slot->left, wait_ms,
									cqrs_wait_event(CQRS_WAIT_VACATE));
	}
	ConditionVariableCancelSleep();
}

bool
cqrs_shared_is_occupied(const CqrsSlot *slot)
{
	for (int i = 0; i < CQRS_MAX_LANES; i++)
	{
		if (slot->lanes[i].pid != 0)
			return true;
	}
	return false;
}

void
cqrs_shared_end_publishers(CqrsSlot *slot)
{
	LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < CQRS_MAX_LANES; i++)
	{
		if (slot->lanes[i].pid != 0)
			kill(slot->lanes[i].pid, SIGTERM);
	}
	LWLockRelease(cqrs_shared->lock);
}

void
cqrs_shared_set_lanes(CqrsSlot *slot, int nlanes)
{
	Assert(!cqrs_shared_is_occupied(slot));
	for (int i = 0; i < CQRS_MAX_LANES; i++)
	{
		CqrsLane   *lane = &slot->lanes[i];

		/* Messages are other lanes' now; nothing of this holds any more. */
		lane->extension = InvalidOid;
		pg_atomic_write_u64(&lane->watermark, 0);
		pg_atomic_write_u64(&lane->unconfirmed_batch, 0);
		pg_atomic_write_u64(&lane->read_commits, 0);
		pg_atomic_write_u64(&lane->unsettled_batch, 0);
	}
	pg_atomic_write_u32(&slot->lease, CQRS_LEASE_NONE);
	pg_atomic_write_u32(&slot->nlanes, nlanes);
}

void
cqrs_shared_set_error(CqrsLane *lane, const char *message)
{
	/* Cut where a character ends. */
	int			length = pg_mbcliplen(message, strlen(message),
									  CQRS_ERROR_BYTES - 1);

	pg_atomic_fetch_add_u64(&lane->errors, 1);
	LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
	memcpy(lane->last_error, message, length);
	lane->last_error[length] = '\0';
	lane->last_error_at = GetCurrentTimestamp();
	LWLockRelease(cqrs_shared->lock);
}

const char *
cqrs_shared_state_name(CqrsPublisherState state)
{
	switch (state)
	{
		case CQRS_STOPPED:
			return "stopped";
		case CQRS_STARTING:
			return "starting";
		case CQRS_UNCONFIGURED:
			return "unconfigured";
		case CQRS_PAUSED:
			return "paused";
		case CQRS_CONNECTING:
			return "connecting";
		case CQRS_PUBLISHING:
			return "publishing";
		case CQRS_BLOCKED:
			return "blocked";
		case CQRS_WAITING:
			return "waiting";
		case CQRS_STANDING_BY:
			return "standing by";
	}
	return "unknown";
}

static void
request_memory(void)
{
	CQRS_CALL_PREVIOUS_REQUEST(previous_shmem_request_hook);
	RequestAddinShmemSpace(memory_size());
	RequestNamedLWLockTranche("cqrs", 1);
}

static void
startup(void)
{
	bool		found;

	if (previous_shmem_startup_hook)
		previous_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	cqrs_shared = ShmemInitStruct("cqrs", memory_size(), &found);
	if (!found)
	{
		memset(cqrs_shared, 0, memory_size());
		cqrs_shared->lock = &(GetNamedLWLockTranche("cqrs"))->lock;
		cqrs_shared->since = GetCurrentTimestamp();
		cqrs_shared->nslots = cqrs_max_databases;
		for (int i = 0; i < cqrs_shared->nslots; i++)
			init_slot(&cqrs_shared->slots[i]);
	}
	LWLockRelease(AddinShmemInitLock);
}

static void
init_slot(CqrsSlot *slot)
{
	ConditionVariableInit(&slot->left);
	ConditionVariableInit(&slot->progress);
	pg_atomic_init_u32(&slot->nlanes, 0);
	pg_atomic_init_u64(&slot->next_batch, 0);
	pg_atomic_init_u64(&slot->commits, 0);
	pg_atomic_init_u32(&slot->calls, 0);
	pg_atomic_init_u32(&slot->segment, 0);
	pg_atomic_init_u64(&slot->saved_watermark, 0);
	pg_atomic_init_u32(&slot->lease, CQRS_LEASE_NONE);
	for (int i = 0; i < CQRS_MAX_LANES; i++)
	{
		CqrsLane   *lane = &slot->lanes[i];

		pg_atomic_init_u32(&lane->listens, 0);
		pg_atomic_init_u64(&lane->watermark, 0);
		pg_atomic_init_u64(&lane->unconfirmed_batch, 0);
		pg_atomic_init_u64(&lane->read_commits, 0);
		pg_atomic_init_u64(&lane->unsettled_batch, 0);
		pg_atomic_init_u32(&lane->state, CQRS_STOPPED);
		pg_atomic_init_u64(&lane->published, 0);
		pg_atomic_init_u64(&lane->confirmed, 0);
		pg_atomic_init_u64(&lane->returned, 0);
		pg_atomic_init_u64(&lane->nacked, 0);
		pg_atomic_init_u64(&lane->connects, 0);
		pg_atomic_init_u64(&lane->errors, 0);
		pg_atomic_init_u64(&lane->held, 0);
	}
}

static Size
memory_size(void)
{
	return add_size(offsetof(CqrsShared, slots),
					mul_size(cqrs_max_databases, sizeof(CqrsSlot)));
}

/* The slot of a database or NULL; the caller holds the lock. */
static CqrsSlot *
find_slot(Oid dboid)
{
	for (int i = 0; i < cqrs_shared->nslots; i++)
	{
		if (cqrs_shared->slots[i].dboid == dboid)
			return &cqrs_shared->slots[i];
	}
	return NULL;
}

/*
 * Take a free slot for a database, or return NULL when there is none.  The
 * caller holds the lock exclusively.
 */
static CqrsSlot *
take_slot(Oid dboid)
{
	CqrsSlot   *slot = find_slot(InvalidOid);

	if (slot == NULL)
		return NULL;

	slot->dboid = dboid;
	slot->wanted = false;
	slot->hold_until = 0;
	pg_atomic_write_u64(&slot->next_batch, 0);
	pg_atomic_write_u64(&slot->commits, 0);
	pg_atomic_write_u32(&slot->segment, 0);
	pg_atomic_write_u64(&slot->saved_watermark, 0);
	cqrs_shared_set_lanes(slot, 0);
	for (int i = 0; i < CQRS_MAX_LANES; i++)
		reset_statistics(&slot->lanes[i]);
	return slot;
}

static void
reset_statistics(CqrsLane *lane)
{
	lane->started_at = 0;
	lane->connected_at = 0;
	lane->last_error_at = 0;
	lane->last_error[0] = '\0';
	pg_atomic_write_u32(&lane->state, CQRS_STOPPED);
	pg_atomic_write_u64(&lane->published, 0);
	pg_atomic_write_u64(&lane->confirmed, 0);
	pg_atomic_write_u64(&lane->returned, 0);
	pg_atomic_write_u64(&lane->nacked, 0);
	pg_atomic_write_u64(&lane->connects, 0);
	pg_atomic_write_u64(&lane->errors, 0);
	pg_atomic_write_u64(&lane->held, 0);
}
