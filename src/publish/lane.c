/*-------------------------------------------------------------------------
 *
 * lane.c
 *	  The publishers of a database among each other.
 *
 * There are cqrs.publishers of them, numbered from 0.  Each is complete: it
 * reads the whole outbox, passes over the messages of the others, and has a
 * connection of its own, so that none waits for another.  Master and key of a
 * message decide whose it is; so the order of a row's messages is kept by one
 * lane, as long as the number of lanes does not change.  It changes only while
 * no publisher of the database runs (launcher.c).
 *
 * Watermark.  Each lane shows in shared memory how far it is; the watermark of
 * the outbox is the least of these.  Lane 0 saves it.  It sleeps without a
 * timeout while there is nothing to be saved, so who raises the least one
 * above what is saved wakes it.  Both write first and then look at what the
 * other one has written, with a barrier in between, so one of them notices.
 * What a lane shows outlives its process: it starts there again.
 *
 * Lease.  One queue for each lane, which one connection can have (link.c); a
 * copy of the database, whatever its number of lanes, has queues of the same
 * names.  Lane 0 counts as connected when it has its queue and nobody has that
 * of another lane who is not known here.  The others connect only while lane 0
 * is connected, and stay when it is not.  So while any lane of one copy is
 * connected, lane 0 of no other copy gets through, and so none of its lanes.
 * One case is left: lane 0 here has lost its connection without knowing, and a
 * copy took over at the very moment in which another lane connected.  Then
 * lane 0 finds its lease taken, for longer than the broker may take to notice
 * a dead connection, and the lanes here give up theirs.
 *
 * All that is shared is one word each, and needs no lock; pids and latches are
 * protected by that of CqrsShared.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "base/guc.h"
#include "publish/lane.h"

static void wake(CqrsLane *lane);

bool
cqrs_lane_attach(CqrsPlace *place, int number)
{
	CqrsSlot   *slot = cqrs_shared_my_slot();
	CqrsLane   *lane = &slot->lanes[number];
	bool		known;
	bool		attached;

	LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
	/* Whether the launcher knows that the database has the extension. */
	known = slot->wanted && pg_atomic_read_u32(&slot->nlanes) != 0;
	if (pg_atomic_read_u32(&slot->nlanes) == 0)
		cqrs_shared_set_lanes(slot, cqrs_publishers);
	place->slot = slot;
	place->lane = lane;
	place->number = number;
	place->nlanes = pg_atomic_read_u32(&slot->nlanes);
	attached = number < place->nlanes && lane->pid == 0;
	if (attached)
	{
		lane->pid = MyProcPid;
		lane->latch = MyLatch;
		lane->started_at = GetCurrentTimestamp();
		pg_atomic_write_u32(&lane->state, CQRS_STARTING);
		slot->wanted = true;
		/* The other lanes are to be started. */
		if (!known && cqrs_shared->launcher != NULL)
			SetLatch(cqrs_shared->launcher);
	}
	LWLockRelease(cqrs_shared->lock);
	return attached;
}

void
cqrs_lane_detach(const CqrsPlace *place)
{
	CqrsLane   *lane = place->lane;

	if (place->number == 0)
		pg_atomic_write_u32(&place->slot->lease, CQRS_LEASE_NONE);
	LWLockAcquire(cqrs_shared->lock, LW_EXCLUSIVE);
	lane->pid = 0;
	lane->latch = NULL;
	pg_atomic_write_u32(&lane->listens, 0);
	lane->connected_at = 0;
	pg_atomic_write_u32(&lane->state, CQRS_STOPPED);
	pg_atomic_write_u64(&lane->held, 0);
	if (cqrs_shared->launcher != NULL)
		SetLatch(cqrs_shared->launcher);
	LWLockRelease(cqrs_shared->lock);
	ConditionVariableBroadcast(&place->slot->left);
}

bool
cqrs_lane_has(const CqrsPlace *place, const CqrsMessage *message)
{
	uint32		hash;

	if (place->nlanes == 1)
		return true;
	hash = hash_combine(hash_bytes((const unsigned char *) message->cqrs_id,
								   strlen(message->cqrs_id)),
						hash_bytes((const unsigned char *) message->instance_pk,
								   strlen(message->instance_pk)));
	return hash % place->nlanes == place->number;
}

int64
cqrs_lane_begin(const CqrsPlace *place, Oid extension, int64 saved)
{
	CqrsLane   *lane = place->lane;
	int64		watermark = saved;

	if (place->number == 0)
		cqrs_lane_has_saved(place, saved);
	if (lane->extension == extension)
		watermark = Max(saved, (int64) pg_atomic_read_u64(&lane->watermark));
	else
	{
		pg_atomic_write_u64(&lane->watermark, 0);
		pg_write_barrier();
		lane->extension = extension;
	}
	cqrs_lane_set_watermark(place, watermark);
	return watermark;
}

void
cqrs_lane_set_watermark(const CqrsPlace *place, int64 watermark)
{
	CqrsLane   *lane = place->lane;
	int64		before;
	int64		saved;

	if (watermark == (int64) pg_atomic_read_u64(&lane->watermark))
		return;
	before = cqrs_lane_watermark(place, 0);
	pg_atomic_write_u64(&lane->watermark, watermark);
	pg_memory_barrier();
	saved = pg_atomic_read_u64(&place->slot->saved_watermark);
	if (place->number != 0 && before <= saved &&
		cqrs_lane_watermark(place, 0) > saved)
		wake(&place->slot->lanes[0]);
}

int64
cqrs_lane_watermark(const CqrsPlace *place, int64 saved)
{
	int64		lowest = PG_INT64_MAX;

	for (int i = 0; i < place->nlanes; i++)
	{
		CqrsLane   *lane = &place->slot->lanes[i];
		int64		watermark = 0;

		/* What a lane has shown for a dropped extension says nothing. */
		if (*(volatile Oid *) &lane->extension == place->lane->extension)
		{
			pg_read_barrier();
			watermark = pg_atomic_read_u64(&lane->watermark);
		}
		lowest = Min(lowest, Max(watermark, saved));
	}
	return lowest;
}

void
cqrs_lane_has_saved(const CqrsPlace *place, int64 watermark)
{
	pg_atomic_write_u64(&place->slot->saved_watermark, watermark);
	pg_memory_barrier();
}

void
cqrs_lane_set_lease(const CqrsPlace *place, CqrsLease lease)
{
	if (place->number != 0 || cqrs_lane_lease(place) == lease)
		return;
	pg_atomic_write_u32(&place->slot->lease, lease);
	pg_memory_barrier();
	for (int i = 1; i < place->nlanes; i++)
		wake(&place->slot->lanes[i]);
}

CqrsLease
cqrs_lane_lease(const CqrsPlace *place)
{
	return pg_atomic_read_u32(&place->slot->lease);
}

char *
cqrs_lane_lease_name(const char *identity, int number)
{
	return number == 0 ? psprintf("cqrs.lease.%s", identity) :
		psprintf("cqrs.lease.%s.%d", identity, number);
}

bool
cqrs_lane_is_connected(const CqrsPlace *place, int number)
{
	bool		connected;

	LWLockAcquire(cqrs_shared->lock, LW_SHARED);
	connected = place->slot->lanes[number].connected_at != 0;
	LWLockRelease(cqrs_shared->lock);
	return connected;
}

static void
wake(CqrsLane *lane)
{
	/* Without the lock: a stale latch is set in vain. */
	Latch	   *latch = *(Latch *volatile *) &lane->latch;

	if (latch != NULL)
		SetLatch(latch);
}
