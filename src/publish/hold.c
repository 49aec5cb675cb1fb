/*-------------------------------------------------------------------------
 *
 * hold.c
 *	  Masters whose messages are not to be sent now.
 *
 * The reason is not in a message but in its route: no queue is bound and
 * cqrs.unroutable is "keep", a queue refuses more, the exchange is missing or
 * not permitted; or it is not known yet whether the route works.  The master's
 * messages then stay in the outbox, whatever their number, and other masters
 * flow on.  The first of them is sent as a probe, on a way of its own
 * (transport.h).  When that is taken the others follow through the window, in
 * the order of the outbox, and when none is left the hold ends.  When it is
 * refused, the next attempt follows after a delay that doubles.
 *
 * What a broken route costs does not depend on how many there are.  One probe
 * is under way at a time for all masters, and after one that was refused there
 * is a pause.  Masters that have not been refused yet have their turn first,
 * and among all others who has waited longest.
 *
 * Order per row (test/unit/order.c plays it with random schedules).
 *
 *	  1. A master is on one way at a time: its probe begins when none of its
 *		 messages is in the window (clear_at), and they are put there again
 *		 when the probe has been taken.
 *	  2. Messages of a held master are sent in the order of their ids.  The
 *		 probe has the lowest; next_id passes it when it is taken, not before,
 *		 so that the watermark stays below it and a probe that is lost is read
 *		 anew.
 *	  3. One that becomes visible late with an id below next_id is of a row
 *		 that no message in between can be of (reader.c), so it goes into the
 *		 window at once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

#include "base/timing.h"
#include "publish/hold.h"

/* It is logged once in this time that a master is held. */
#define TELL_INTERVAL_MS	60000
/* After a probe that was refused, the next one of any master waits so long. */
#define PROBE_PAUSE_MS		20

typedef struct HoldEntry
{
	const char *cqrs_id;		/* in the hold */
	CqrsHold   *hold;
	char		status;			/* simplehash's */
} HoldEntry;

#define SH_PREFIX holds
#define SH_ELEMENT_TYPE HoldEntry
#define SH_KEY_TYPE const char *
#define SH_KEY cqrs_id
#define SH_HASH_KEY(table, key) \
	hash_bytes((const unsigned char *) (key), strlen(key))
#define SH_EQUAL(table, a, b) (strcmp(a, b) == 0)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

static bool hold_master(CqrsHolds *holds, const CqrsWindow *window,
						const char *cqrs_id, int64 id, bool refused);
static CqrsHold *create(CqrsHolds *holds, const char *cqrs_id, int64 id);
static CqrsHold *find(const CqrsHolds *holds, const char *cqrs_id);
static bool is_clear(const CqrsHold *hold, const CqrsWindow *window);
static void put_off(CqrsHolds *holds, CqrsHold *hold);
static void forget_probe(CqrsHolds *holds);
static TimestampTz forget_ended(CqrsHolds *holds, const char *cqrs_id);

CqrsHolds  *
cqrs_holds_create(void)
{
	CqrsHolds  *holds = MemoryContextAllocZero(TopMemoryContext,
											   sizeof(CqrsHolds));

	holds->table = holds_create(TopMemoryContext, 16, NULL);
	return holds;
}

bool
cqrs_holds_add(CqrsHolds *holds, const CqrsWindow *window,
			   const char *cqrs_id, int64 id)
{
	return hold_master(holds, window, cqrs_id, id, true);
}

void
cqrs_holds_add_unproven(CqrsHolds *holds, const CqrsWindow *window,
						const char *cqrs_id, int64 id)
{
	(void) hold_master(holds, window, cqrs_id, id, false);
}

bool
cqrs_holds_tell(CqrsHolds *holds, const char *cqrs_id)
{
	CqrsHold   *hold = find(holds, cqrs_id);

	if (hold == NULL || hold->told ||
		cqrs_until_after_ms(hold->told_at, TELL_INTERVAL_MS) > 0)
		return false;
	hold->told = true;
	hold->told_at = GetCurrentTimestamp();
	return true;
}

bool
cqrs_holds_keep(CqrsHolds *holds, const CqrsWindow *window,
				const char *cqrs_id, int64 id)
{
	CqrsHold   *hold = holds->list == NIL ? NULL : find(holds, cqrs_id);

	if (hold == NULL)
		return false;
	if (id >= hold->next_id)
		return true;
	hold->clear_at = cqrs_window_end(window) + 1;
	return false;
}

void
cqrs_holds_remove(CqrsHolds *holds, CqrsHold *hold)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);

	Assert(hold->state != CQRS_HOLD_PROBING);
	if (hold->failures > 0)
		holds->nrefused--;
	(void) holds_delete(holds->table, hold->cqrs_id);
	holds->list = list_delete_ptr(holds->list, hold);
	if (hold->told_at == 0)
		pfree(hold);
	else
		holds->ended = lappend(holds->ended, hold);
	MemoryContextSwitchTo(caller);
}

bool
cqrs_holds_are_due(const CqrsHolds *holds, const CqrsWindow *window)
{
	if (cqrs_window_has_room(window))
	{
		ListCell   *lc;

		foreach(lc, holds->list)
		{
			if (((CqrsHold *) lfirst(lc))->state == CQRS_HOLD_CATCHING_UP)
				return true;
		}
	}
	return cqrs_holds_next_probe(holds, window) != NULL;
}

CqrsHold   *
cqrs_holds_next_probe(const CqrsHolds *holds, const CqrsWindow *window)
{
	TimestampTz now;
	CqrsHold   *next = NULL;
	ListCell   *lc;

	if (holds->list == NIL || holds->probe != NULL ||
		cqrs_until_ms(holds->probe_at) > 0)
		return NULL;
	now = GetCurrentTimestamp();
	foreach(lc, holds->list)
	{
		CqrsHold   *hold = lfirst(lc);

		if (hold->state != CQRS_HOLD_WAITING || hold->retry_at > now ||
			!is_clear(hold, window))
			continue;
		if (next == NULL ||
			(hold->failures == 0) > (next->failures == 0) ||
			((hold->failures == 0) == (next->failures == 0) &&
			 hold->retry_at < next->retry_at))
			next = hold;
	}
	return next;
}

void
cqrs_holds_set_probe(CqrsHolds *holds, CqrsHold *hold, CqrsOutgoing *message)
{
	Assert(holds->probe == NULL);
	Assert(hold->state == CQRS_HOLD_WAITING);
	message->refusal = NULL;
	hold->state = CQRS_HOLD_PROBING;
	hold->next_id = message->id;
	holds->probing = hold;
	holds->probe = message;
}

CqrsOutgoing *
cqrs_holds_waiting_probe(const CqrsHolds *holds)
{
	return holds->probe != NULL && holds->probe->refusal == NULL ?
		holds->probe : NULL;
}

void
cqrs_holds_probe_taken(CqrsHolds *holds)
{
	CqrsHold   *hold = holds->probing;

	/* It may be lower by now; then the probe is sent again in its turn. */
	if (hold->next_id == holds->probe->id)
		hold->next_id++;
	hold->state = CQRS_HOLD_CATCHING_UP;
	forget_probe(holds);
}

void
cqrs_holds_probe_refused(CqrsHolds *holds)
{
	put_off(holds, holds->probing);
	holds->probe_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												  PROBE_PAUSE_MS);
	forget_probe(holds);
}

void
cqrs_holds_probe_lost(CqrsHolds *holds)
{
	if (holds->probe == NULL || holds->probe->refusal != NULL)
		return;
	holds->probing->state = CQRS_HOLD_WAITING;
	holds->probing->retry_at = GetCurrentTimestamp();
	forget_probe(holds);
}

void
cqrs_holds_refuse(CqrsHolds *holds, const char *reason)
{
	holds->probe->refusal = MemoryContextStrdup(TopMemoryContext, reason);
}

CqrsOutgoing *
cqrs_holds_refused(const CqrsHolds *holds)
{
	return holds->probe != NULL && holds->probe->refusal != NULL ?
		holds->probe : NULL;
}

void
cqrs_holds_remove_refused(CqrsHolds *holds)
{
	CqrsHold   *hold = holds->probing;

	if (cqrs_holds_refused(holds) == NULL)
		return;
	if (hold->next_id == holds->probe->id)
		hold->next_id++;
	hold->state = CQRS_HOLD_WAITING;
	hold->retry_at = GetCurrentTimestamp();
	pfree(unconstify(char *, holds->probe->refusal));
	forget_probe(holds);
}

long
cqrs_holds_wait_ms(const CqrsHolds *holds)
{
	TimestampTz now;
	TimestampTz soonest = PG_INT64_MAX;
	ListCell   *lc;

	if (holds->list == NIL || holds->probe != NULL)
		return -1;
	now = GetCurrentTimestamp();
	foreach(lc, holds->list)
	{
		CqrsHold   *hold = lfirst(lc);
		TimestampTz due = Max(hold->retry_at, holds->probe_at);

		/* Past that, answers of the broker are waited for. */
		if (hold->state == CQRS_HOLD_WAITING && due > now)
			soonest = Min(soonest, due);
	}
	return soonest == PG_INT64_MAX ? -1 : cqrs_until_ms(soonest);
}

void
cqrs_holds_retry(CqrsHolds *holds)
{
	ListCell   *lc;

	foreach(lc, holds->list)
		((CqrsHold *) lfirst(lc))->retry_at = 0;
}

int64
cqrs_holds_min_id(const CqrsHolds *holds)
{
	int64		min = PG_INT64_MAX;
	ListCell   *lc;

	foreach(lc, holds->list)
		min = Min(min, ((CqrsHold *) lfirst(lc))->next_id);
	return min;
}

/* Returns false when the master is waiting already, or its probe decides. */
static bool
hold_master(CqrsHolds *holds, const CqrsWindow *window, const char *cqrs_id,
			int64 id, bool refused)
{
	CqrsHold   *hold = find(holds, cqrs_id);

	if (hold == NULL)
		hold = create(holds, cqrs_id, id);
	else
	{
		hold->next_id = Min(hold->next_id, id);
		if (hold->state == CQRS_HOLD_PROBING ||
			(hold->state == CQRS_HOLD_WAITING &&
			 (hold->failures > 0 || !refused)))
			return false;
	}
	hold->clear_at = cqrs_window_end(window);
	if (refused)
		put_off(holds, hold);
	else
	{
		hold->state = CQRS_HOLD_WAITING;
		hold->retry_at = GetCurrentTimestamp();
	}
	return true;
}

static CqrsHold *
create(CqrsHolds *holds, const char *cqrs_id, int64 id)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	CqrsHold   *hold = palloc0(offsetof(CqrsHold, cqrs_id) +
							   strlen(cqrs_id) + 1);
	bool		found;

	strcpy(hold->cqrs_id, cqrs_id);
	hold->told_at = forget_ended(holds, cqrs_id);
	hold->next_id = id;
	holds->list = lappend(holds->list, hold);
	holds_insert(holds->table, hold->cqrs_id, &found)->hold = hold;
	Assert(!found);
	MemoryContextSwitchTo(caller);
	return hold;
}

static CqrsHold *
find(const CqrsHolds *holds, const char *cqrs_id)
{
	HoldEntry  *entry = holds_lookup(holds->table, cqrs_id);

	return entry != NULL ? entry->hold : NULL;
}

/*
 * Whether none of the master's messages is in the window.  Positions only get
 * lower when others are taken out, and then this may be true too late.
 */
static bool
is_clear(const CqrsHold *hold, const CqrsWindow *window)
{
	return cqrs_window_done(window) >= hold->clear_at ||
		cqrs_window_done(window) == cqrs_window_end(window);
}

/* Have a master wait longer than the last time. */
static void
put_off(CqrsHolds *holds, CqrsHold *hold)
{
	if (hold->failures == 0)
		holds->nrefused++;
	hold->state = CQRS_HOLD_WAITING;
	hold->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												 cqrs_backoff_ms(hold->failures));
	hold->failures++;
}

static void
forget_probe(CqrsHolds *holds)
{
	pfree(holds->probe);
	holds->probe = NULL;
	holds->probing = NULL;
}

/*
 * When it was last logged that a master is held, as far as that still matters.
 * Forgets that hold, and those for which it does not matter any more.
 */
static TimestampTz
forget_ended(CqrsHolds *holds, const char *cqrs_id)
{
	TimestampTz told_at = 0;
	ListCell   *lc;

	foreach(lc, holds->ended)
	{
		CqrsHold   *hold = lfirst(lc);
		bool		same = strcmp(hold->cqrs_id, cqrs_id) == 0;

		if (!same && cqrs_until_after_ms(hold->told_at, TELL_INTERVAL_MS) > 0)
			continue;
		if (same)
			told_at = Max(told_at, hold->told_at);
		holds->ended = foreach_delete_current(holds->ended, lc);
		pfree(hold);
	}
	return told_at;
}
