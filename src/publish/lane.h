/*-------------------------------------------------------------------------
 *
 * lane.h
 *	  The publishers of a database among each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LANE_H
#define CQRS_LANE_H

#include "postgres.h"

#include "outbox/message.h"
#include "worker/kind.h"

/* What the lanes of a database know of their lease at the broker. */
typedef enum CqrsLease
{
	CQRS_LEASE_NONE,			/* lane 0 is not connected */
	CQRS_LEASE_HELD,			/* it is */
	CQRS_LEASE_LOST				/* a copy of the database has taken over */
} CqrsLease;

/* Ask for the shared memory; called once, while the library is preloaded. */
extern void cqrs_lane_init(void);

/* Another number of lanes comes into force; CqrsWorkerClass's recount(). */
extern void cqrs_lane_recount(int slot, int count);

/* Whether a message is one for this lane to publish. */
extern bool cqrs_lane_has(const CqrsWorker *worker, const CqrsMessage *message);

/*
 * Above which id this lane has to publish, where the watermark has been saved
 * as "saved".
 */
extern int64 cqrs_lane_begin(const CqrsWorker *worker, int64 saved);

/*
 * Tell how far this lane is: of its messages, every id up to "watermark" is
 * published or was rolled back.  It never gets less.
 */
extern void cqrs_lane_set_watermark(const CqrsWorker *worker, int64 watermark);

/* How far all lanes are; those that have not told yet are as far as "saved". */
extern int64 cqrs_lane_watermark(const CqrsWorker *worker, int64 saved);

/* Lane 0 has saved the watermark. */
extern void cqrs_lane_has_saved(const CqrsWorker *worker, int64 watermark);

/* Lane 0 tells the others of the lease at the broker. */
extern void cqrs_lane_set_lease(const CqrsWorker *worker, CqrsLease lease);
extern CqrsLease cqrs_lane_lease(const CqrsWorker *worker);

/* The name of the lease of a lane, palloc'd. */
extern char *cqrs_lane_lease_name(const char *identity, int number);

#endif							/* CQRS_LANE_H */
