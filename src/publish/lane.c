/*-------------------------------------------------------------------------
 *
 * lane.c
 *	  Coordination of the publishers of a database.
 *
 * A database has cqrs.publishers publishers, numbered from 0; each has a lane.
 * A publisher reads the whole outbox, skips the messages of other lanes, and
 * has a connection of its own, so that no lane waits for another.  Master and
 * key of a message decide its lane.  So one lane keeps the order of a row's
 * messages, as long as the number of lanes does not change.  The number
 * changes only while no publisher of the database runs (launcher.c).
 *
 * Watermark.  Each lane has a watermark in shared memory; the watermark of the
 * outbox is the lowest of these.  Lane 0 saves it.  Lane 0 sleeps without a
 * timeout while there is nothing to save, so a lane that raises the lowest
 * watermark above the saved one wakes lane 0.  Both write first and then read
 * what the other one has written, with a barrier in between, so at least one
 * of them notices.  A lane's watermark outlives its process: the next process
 * starts there.
 *
 * Lease.  Each lane has an exclusive queue, which one connection can have
 * (link.c).  The queues of a copy of the database, whatever its number of
 * lanes, have the same names.  Lane 0 counts as connected if it has its queue,
 * and if no connection but those of this database's lanes has the queue of
 * another lane.  The other lanes connect only while lane 0 is connected, and
 * stay connected when lane 0 is not.  So while any lane of one copy is
 * connected, lane 0 of no other copy can connect, and so none of that copy's
 * lanes.  One case is left: lane 0 here has lost its connection without
 * knowing, and a copy took over at the very moment when another lane connected
 * here.  Then lane 0 finds its lease taken for longer than the broker may take
 * to notice a dead connection, and the lanes here give up their connections.
 *
 * Every shared field is one word, and needs no lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "port/atomics.h"

#include "base/limits.h"
#include "base/slot.h"
#include "outbox/published.h"
#include "publish/lane.h"
#include "worker/worker.h"

/* What the lanes of a database share. */
typedef struct Lanes
{
	pg_atomic_uint64 saved_watermark;	/* written by lane 0, as is the lease */
	pg_atomic_uint32 lease;		/* CqrsLease */
	Oid			extensions[CQRS_MAX_LANES]; /* whose progress the lane has
											 * shown */
} Lanes;

static Lanes *lanes;			/* by slot */

static void init_lanes(void *element);
static void reset_lanes(void *element);

void
cqrs_lane_init(void)
{
	static const CqrsSharedArray array = {
		.name = "cqrs lanes",
		.size = sizeof(Lanes),
		.by_slot = true,
		.elements = (void **) &lanes,
		.init = init_lanes,
		.reset = reset_lanes
	};

	cqrs_slot_add_array(&array);
}

void
cqrs_lane_recount(int slot, int count)
{
	for (int i = 0; i < CQRS_MAX_LANES; i++)
		lanes[slot].extensions[i] = InvalidOid;
	pg_atomic_write_u32(&lanes[slot].lease, CQRS_LEASE_NONE);
	cqrs_published_set_lanes(slot, count);
}

static void
init_lanes(void *element)
{
	pg_atomic_init_u64(&((Lanes *) element)->saved_watermark, 0);
	pg_atomic_init_u32(&((Lanes *) element)->lease, CQRS_LEASE_NONE);
}

static void
reset_lanes(void *element)
{
	pg_atomic_write_u64(&((Lanes *) element)->saved_watermark, 0);
}

bool
cqrs_lane_has(const CqrsWorker *worker, const CqrsMessage *message)
{
	uint32		hash;

	if (worker->count == 1)
		return true;
	hash = hash_combine(hash_bytes((const unsigned char *) message->cqrs_id,
								   strlen(message->cqrs_id)),
						hash_bytes((const unsigned char *) message->instance_pk,
								   strlen(message->instance_pk)));
	return hash % worker->count == worker->number;
}

int64
cqrs_lane_begin(const CqrsWorker *worker, int64 saved)
{
	Oid		   *shown = &lanes[worker->slot].extensions[worker->number];
	int64		watermark = saved;

	if (worker->number == 0)
		cqrs_lane_note_saved(worker, saved);
	if (*shown == worker->extension)
		watermark = Max(saved, cqrs_published_watermark(worker->slot,
														worker->number));
	else
	{
		cqrs_published_set_watermark(worker->slot, worker->number, 0);
		pg_write_barrier();
		*shown = worker->extension;
	}
	cqrs_lane_set_watermark(worker, watermark);
	return watermark;
}

void
cqrs_lane_set_watermark(const CqrsWorker *worker, int64 watermark)
{
	int64		before;
	int64		saved;

	if (watermark == cqrs_published_watermark(worker->slot, worker->number))
		return;
	Assert(watermark > cqrs_published_watermark(worker->slot,
												worker->number));	/* I7 */
	before = cqrs_lane_watermark(worker, 0);
	cqrs_published_set_watermark(worker->slot, worker->number, watermark);
	pg_memory_barrier();
	saved = pg_atomic_read_u64(&lanes[worker->slot].saved_watermark);
	if (worker->number != 0 && before <= saved &&
		cqrs_lane_watermark(worker, 0) > saved)
		cqrs_worker_wake(worker, 0);
}

int64
cqrs_lane_watermark(const CqrsWorker *worker, int64 saved)
{
	Oid		   *shown = lanes[worker->slot].extensions;
	int64		lowest = PG_INT64_MAX;

	for (int i = 0; i < worker->count; i++)
	{
		int64		watermark = 0;

		/* A watermark that was set for a dropped extension does not count. */
		if (*(volatile Oid *) &shown[i] == worker->extension)
		{
			pg_read_barrier();
			watermark = cqrs_published_watermark(worker->slot, i);
		}
		lowest = Min(lowest, Max(watermark, saved));
	}
	return lowest;
}

void
cqrs_lane_note_saved(const CqrsWorker *worker, int64 watermark)
{
	pg_atomic_write_u64(&lanes[worker->slot].saved_watermark, watermark);
	pg_memory_barrier();
}

void
cqrs_lane_set_lease(const CqrsWorker *worker, CqrsLease lease)
{
	if (worker->number != 0 || cqrs_lane_lease(worker) == lease)
		return;
	pg_atomic_write_u32(&lanes[worker->slot].lease, lease);
	pg_memory_barrier();
	for (int i = 1; i < worker->count; i++)
		cqrs_worker_wake(worker, i);
}

CqrsLease
cqrs_lane_lease(const CqrsWorker *worker)
{
	return pg_atomic_read_u32(&lanes[worker->slot].lease);
}

char *
cqrs_lane_lease_name(const char *identity, int number)
{
	return number == 0 ? psprintf("cqrs.lease.%s", identity) :
		psprintf("cqrs.lease.%s.%d", identity, number);
}
