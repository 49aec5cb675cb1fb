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

#include "base/shared.h"
#include "outbox/message.h"

/* Which of the publishers of a database this process is. */
typedef struct CqrsPlace
{
	CqrsSlot   *slot;
	CqrsLane   *lane;
	int			number;			/* from 0 */
	int			nlanes;			/* does not change while this process runs */
} CqrsPlace;

/*
 * Become that lane of the current database, for which a slot is taken if need
 * be.  False when it has that one already, or has fewer lanes.
 */
extern bool cqrs_lane_attach(CqrsPlace *place, int number);
extern void cqrs_lane_detach(const CqrsPlace *place);

/* Whether a message is one for this lane to publish. */
extern bool cqrs_lane_has(const CqrsPlace *place, const CqrsMessage *message);

/*
 * Above which id this lane has to publish, where the watermark has been saved
 * as "saved".
 */
extern int64 cqrs_lane_begin(const CqrsPlace *place, Oid extension,
							 int64 saved);

/*
 * Tell how far this lane is: of its messages, every id up to "watermark" is
 * published or was rolled back.  It never gets less.
 */
extern void cqrs_lane_set_watermark(const CqrsPlace *place, int64 watermark);

/* How far all lanes are; those that have not told yet are as far as "saved". */
extern int64 cqrs_lane_watermark(const CqrsPlace *place, int64 saved);

/* Lane 0 has saved the watermark. */
extern void cqrs_lane_has_saved(const CqrsPlace *place, int64 watermark);

/* Lane 0 tells the others of the lease at the broker. */
extern void cqrs_lane_set_lease(const CqrsPlace *place, CqrsLease lease);
extern CqrsLease cqrs_lane_lease(const CqrsPlace *place);

/* The name of the lease of a lane, palloc'd. */
extern char *cqrs_lane_lease_name(const char *identity, int number);

/* For lane 0: whether another lane of this database is connected. */
extern bool cqrs_lane_is_connected(const CqrsPlace *place, int number);

#endif							/* CQRS_LANE_H */
