/*-------------------------------------------------------------------------
 *
 * discovery.c
 *	  How the launcher finds out which databases have the extension.
 *
 * Only a process in a database can find that out.  The launcher sends the
 * first publisher into a database that it does not know.  A publisher that
 * finds the extension enters the roster as a worker (roster.h).  A publisher
 * that finds no extension takes its database out of the list of databases that
 * are looked at, in shared memory.  If the publisher has ended and has done
 * neither, it has failed, whatever the reason: it could not be forked, or the
 * database could not be connected to.  Then another publisher is sent, after a
 * delay that doubles with each failure.
 *
 * The launcher keeps the CqrsDiscovery of each database, and calls all
 * functions of this file but cqrs_discovery_absent() and
 * cqrs_discovery_is_sent().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "base/slot.h"
#include "base/timing.h"
#include "worker/discovery.h"
#include "worker/roster.h"

/* Delay after a failure; it is doubled so many times at the most. */
#define FAILURE_DELAY_MS	10000
#define DELAY_DOUBLED		6
/* Delay while as many databases are looked at as may be at the same time. */
#define BUSY_DELAY_MS		1000

static bool replace_looked_at(Oid from, Oid to);
static bool is_place_free(void);

void
cqrs_discovery_reset(void)
{
	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	for (int i = 0; i < CQRS_MAX_DISCOVERIES; i++)
		cqrs_roster_server->looked_at[i] = InvalidOid;
	LWLockRelease(cqrs_slot_lock);
}

long
cqrs_discovery_delay_ms(const CqrsDiscovery *discovery)
{
	long		delay_ms = 0;

	if (!discovery->due)
		return -1;
	if (discovery->failures > 0)
		delay_ms = cqrs_until_after_ms(discovery->failed_at,
									   FAILURE_DELAY_MS << Min(discovery->failures - 1,
															   DELAY_DOUBLED));
	if (delay_ms == 0 && !is_place_free())
		delay_ms = BUSY_DELAY_MS;
	return delay_ms;
}

void
cqrs_discovery_begin(CqrsDiscovery *discovery, Oid dboid)
{
	(void) replace_looked_at(InvalidOid, dboid);
	discovery->due = false;
	discovery->sent = true;
}

void
cqrs_discovery_cancel(CqrsDiscovery *discovery, Oid dboid)
{
	(void) replace_looked_at(dboid, InvalidOid);
	discovery->due = true;
	discovery->sent = false;
}

bool
cqrs_discovery_end(CqrsDiscovery *discovery, Oid dboid, bool found)
{
	bool		known = !replace_looked_at(dboid, InvalidOid) || found;

	discovery->sent = false;
	discovery->due = !known;
	discovery->failures = known ? 0 : discovery->failures + 1;
	discovery->failed_at = GetCurrentTimestamp();
	return known;
}

void
cqrs_discovery_hurry(CqrsDiscovery *discovery)
{
	discovery->failures = Min(discovery->failures, 1);
}

void
cqrs_discovery_absent(Oid dboid)
{
	(void) replace_looked_at(dboid, InvalidOid);
}

bool
cqrs_discovery_is_sent(Oid dboid)
{
	for (int i = 0; i < CQRS_MAX_DISCOVERIES; i++)
	{
		if (cqrs_roster_server->looked_at[i] == dboid)
			return true;
	}
	return false;
}

/*
 * Replace a database by another one in the list of those that are looked at, where
 * InvalidOid stands for none.  Returns whether the first one was there.
 */
static bool
replace_looked_at(Oid from, Oid to)
{
	bool		found = false;

	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	for (int i = 0; i < CQRS_MAX_DISCOVERIES && !found; i++)
	{
		found = cqrs_roster_server->looked_at[i] == from;
		if (found)
			cqrs_roster_server->looked_at[i] = to;
	}
	LWLockRelease(cqrs_slot_lock);
	return found;
}

/* Whether one more database can be looked at; only the launcher takes a place. */
static bool
is_place_free(void)
{
	return replace_looked_at(InvalidOid, InvalidOid);
}
