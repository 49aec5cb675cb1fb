/*-------------------------------------------------------------------------
 *
 * discovery.h
 *	  How the launcher finds out which databases have the extension.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_DISCOVERY_H
#define CQRS_DISCOVERY_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* What the launcher knows about a database; zeros: nothing is to be found out. */
typedef struct CqrsDiscovery
{
	bool		due;			/* a worker is to look */
	bool		sent;			/* a worker looks */
	int			failures;		/* in a row, so far */
	TimestampTz failed_at;		/* of the last failure */
} CqrsDiscovery;

/* No worker looks anywhere; called when the launcher starts. */
extern void cqrs_discovery_reset(void);

/*
 * The delay before a worker is to be sent into a database, in milliseconds: 0 if
 * none, -1 if no worker is to be sent.
 */
extern long cqrs_discovery_delay_ms(const CqrsDiscovery *discovery);

/* A worker is sent now, as the delay has passed. */
extern void cqrs_discovery_begin(CqrsDiscovery *discovery, Oid dboid);

/* It could not be sent. */
extern void cqrs_discovery_cancel(CqrsDiscovery *discovery, Oid dboid);

/*
 * The worker that was sent has ended, or the database is known to have the
 * extension ("found").  Returns false if neither presence nor absence is known:
 * then another worker is to be sent.
 */
extern bool cqrs_discovery_end(CqrsDiscovery *discovery, Oid dboid, bool found);

/* A look that has failed may succeed now: the delay begins anew. */
extern void cqrs_discovery_hurry(CqrsDiscovery *discovery);

/* A worker has found no extension in its database. */
extern void cqrs_discovery_absent(Oid dboid);

/*
 * Whether a worker has been sent into a database and has not found out yet.  The
 * caller holds cqrs_slot_lock.
 */
extern bool cqrs_discovery_is_sent(Oid dboid);

#endif							/* CQRS_DISCOVERY_H */
