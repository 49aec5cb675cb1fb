/*-------------------------------------------------------------------------
 *
 * lane.h
 *	  Coordination of the publishers of a database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LANE_H
#define CQRS_LANE_H

#include "postgres.h"

#include "outbox/message.h"
#include "worker/kind.h"

/* The state of the lease that the lanes of a database have at the broker. */
typedef enum CqrsLease
{
	CQRS_LEASE_NONE,			/* lane 0 is not connected */
	CQRS_LEASE_HELD,			/* lane 0 is connected */
	CQRS_LEASE_LOST				/* a copy of the database has taken over */
} CqrsLease;

/* Ask for the shared memory; called once, while the library is preloaded. */
extern void cqrs_lane_init(void);

/* The number of lanes changes; implements CqrsWorkerClass's recount(). */
extern void cqrs_lane_recount(int slot, int count);

/* Whether a message belongs to this lane. */
extern bool cqrs_lane_has(const CqrsWorker *worker, const CqrsMessage *message);

/*
 * The id above which this lane has to publish, given the saved watermark.
 */
extern int64 cqrs_lane_begin(const CqrsWorker *worker, int64 saved);

/*
 * Set the watermark of this lane: every id up to it that belongs to the lane
 * is published or was rolled back.  It never decreases.
 */
extern void cqrs_lane_set_watermark(const CqrsWorker *worker, int64 watermark);

/*
 * The lowest watermark of all lanes; "saved" stands for one that is not set
 * yet.
 */
extern int64 cqrs_lane_watermark(const CqrsWorker *worker, int64 saved);

/* Lane 0 has saved the watermark. */
extern void cqrs_lane_note_saved(const CqrsWorker *worker, int64 watermark);

/* Set the state of the lease; only lane 0 does so. */
extern void cqrs_lane_set_lease(const CqrsWorker *worker, CqrsLease lease);
extern CqrsLease cqrs_lane_lease(const CqrsWorker *worker);

/* The palloc'd name of a lane's lease. */
extern char *cqrs_lane_lease_name(const char *identity, int number);

#endif							/* CQRS_LANE_H */
