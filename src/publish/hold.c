/*-------------------------------------------------------------------------
 *
 * hold.c
 *	  Masters that are held: their messages are not sent now.
 *
 * The reason is not a message but its route: no queue is bound and
 * cqrs.unroutable is "keep", a queue rejects messages, the exchange is missing
 * or not permitted, or it is not known yet whether the route works.  All
 * messages of the master then stay in the outbox, and other masters are
 * published.  The master's first message is sent as a probe, separately from
 * other messages (transport.h).  If the broker takes the probe, the other
 * messages follow through the window, in the order of the outbox, and the hold
 * ends when none is left.  If the broker refuses the probe, the next probe
 * follows after a delay that doubles.
 *
 * The cost of broken routes does not depend on their number.  All masters
 * together have one probe in flight, and a pause follows a probe that was
 * refused.  Masters that have not been refused yet are probed first, then the
 * master that has waited longest.
 *
 * Order per row (test/unit/order.c plays it with random schedules).
 *
 *	  1. A master uses the probe or the window, never both: its probe begins
 *		 when none of its messages is in the window (clear_at), and its
 *		 messages are put there again when the probe has been taken.
 *	  2. Messages of a held master are sent in the order of their ids.  The
 *		 probe has the lowest id.  next_id passes that id when the probe is
 *		 taken, not before, so that the watermark stays below the probe and a
 *		 probe that is lost is read again.
 *	  3. If a message becomes visible late, with an id below next_id, no
 *		 message in between can be of the same row (reader.c).  So the late
 *		 message goes into the window at once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

#include "base/timing.h"
#include "publish/hold.h"

/* A held master is logged at most once in this time. */
#define LOG_INTERVAL_MS	60000
/*
 * The pause after a probe that was refused, before the next one of any master.
 */
#define PROBE_PAUSE_MS		20

typedef struct HoldEntry
{
	const char *cqrs_id;		/* points into the hold */
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
static long retry_wait_ms(const CqrsHold *hold);
static bool is_clear(const CqrsHold *hold, const CqrsWindow *window);
static void forget_probe(CqrsHolds *holds);
static TimestampTz forget_ended(CqrsHolds *holds, const char *cqrs_id);

CqrsHolds *
cqrs_hold_create(void)
{
	CqrsHolds  *holds = MemoryContextAllocZero(TopMemoryContext,
											   sizeof(CqrsHolds));

	holds->table = holds_create(TopMemoryContext, 16, NULL);
	return holds;
}

bool
cqrs_hold_add(CqrsHolds *holds, const CqrsWindow *window,
			  const char *cqrs_id, int64 id)
{
	return hold_master(holds, window, cqrs_id, id, true);
}

void
cqrs_hold_add_unproven(CqrsHolds *holds, const CqrsWindow *window,
					   const char *cqrs_id, int64 id)
{
	(void) hold_master(holds, window, cqrs_id, id, false);
}

bool
cqrs_hold_should_log(CqrsHolds *holds, const char *cqrs_id, CqrsQuota *quota)
{
	CqrsHold   *hold = find(holds, cqrs_id);

	if (hold == NULL || hold->logged ||
		cqrs_until_after_ms(hold->logged_at, LOG_INTERVAL_MS) > 0 ||
		!cqrs_quota_take(quota))
		return false;
	hold->logged = true;
	hold->logged_at = GetCurrentTimestamp();
	return true;
}

bool
cqrs_hold_keep(CqrsHolds *holds, const CqrsWindow *window,
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
cqrs_hold_put_off(CqrsHolds *holds, CqrsHold *hold)
{
	if (hold->failures == 0)
		holds->nrefused++;
	hold->state = CQRS_HOLD_WAITING;
	hold->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												 cqrs_backoff_ms(hold->failures));
	hold->failures++;
}

void
cqrs_hold_remove(CqrsHolds *holds, CqrsHold *hold)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);

	Assert(hold->state != CQRS_HOLD_PROBING);
	if (hold->failures > 0)
		holds->nrefused--;
	(void) holds_delete(holds->table, hold->cqrs_id);
	holds->list = list_delete_ptr(holds->list, hold);
	if (hold->logged_at == 0)
		pfree(hold);
	else
		holds->ended = lappend(holds->ended, hold);
	MemoryContextSwitchTo(caller);
}

bool
cqrs_hold_are_due(const CqrsHolds *holds, const CqrsWindow *window)
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
	return cqrs_hold_next_probe(holds, window) != NULL;
}

CqrsHold *
cqrs_hold_next_probe(const CqrsHolds *holds, const CqrsWindow *window)
{
	CqrsHold   *next = NULL;
	ListCell   *lc;

	if (holds->list == NIL || holds->probe != NULL ||
		cqrs_until_within_ms(holds->probe_at, PROBE_PAUSE_MS) > 0)
		return NULL;
	foreach(lc, holds->list)
	{
		CqrsHold   *hold = lfirst(lc);

		if (hold->state != CQRS_HOLD_WAITING || retry_wait_ms(hold) > 0 ||
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
cqrs_hold_set_probe(CqrsHolds *holds, CqrsHold *hold, CqrsOutgoing *message)
{
	Assert(holds->probe == NULL);	/* I9 */
	Assert(hold->state == CQRS_HOLD_WAITING);
	Assert(message->id >= hold->next_id);	/* I8 */
	message->refusal = NULL;
	message->returned = false;
	hold->state = CQRS_HOLD_PROBING;
	hold->next_id = message->id;
	holds->probing = hold;
	holds->probe = message;
}

CqrsOutgoing *
cqrs_hold_waiting_probe(const CqrsHolds *holds)
{
	return holds->probe != NULL && holds->probe->refusal == NULL ?
		holds->probe : NULL;
}

void
cqrs_hold_probe_taken(CqrsHolds *holds)
{
	CqrsHold   *hold = holds->probing;

	Assert(hold->next_id <= holds->probe->id);	/* I8 */

	if (hold->next_id == holds->probe->id)
	{
		hold->next_id++;
		hold->state = CQRS_HOLD_CATCHING_UP;
	}
	else
	{
		/*
		 * A late message was refused meanwhile.  It is the next probe, and
		 * the message of this one is sent again after it.  The window may
		 * still have messages that would be put there a second time.
		 */
		hold->state = CQRS_HOLD_WAITING;
		hold->retry_at = GetCurrentTimestamp();
	}
	forget_probe(holds);
}

void
cqrs_hold_probe_refused(CqrsHolds *holds)
{
	cqrs_hold_put_off(holds, holds->probing);
	holds->probe_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												  PROBE_PAUSE_MS);
	forget_probe(holds);
}

void
cqrs_hold_probe_lost(CqrsHolds *holds)
{
	if (holds->probe == NULL || holds->probe->refusal != NULL)
		return;
	holds->probing->state = CQRS_HOLD_WAITING;
	holds->probing->retry_at = GetCurrentTimestamp();
	forget_probe(holds);
}

void
cqrs_hold_refuse(CqrsHolds *holds, const char *reason)
{
	holds->probe->refusal = MemoryContextStrdup(TopMemoryContext, reason);
}

CqrsOutgoing *
cqrs_hold_refused(const CqrsHolds *holds)
{
	return holds->probe != NULL && holds->probe->refusal != NULL ?
		holds->probe : NULL;
}

void
cqrs_hold_remove_refused(CqrsHolds *holds)
{
	CqrsHold   *hold = holds->probing;

	if (cqrs_hold_refused(holds) == NULL)
		return;
	if (hold->next_id == holds->probe->id)
		hold->next_id++;
	hold->state = CQRS_HOLD_WAITING;
	hold->retry_at = GetCurrentTimestamp();
	forget_probe(holds);
}

long
cqrs_hold_wait_ms(const CqrsHolds *holds)
{
	long		soonest_ms = -1;
	long		pause_ms;
	ListCell   *lc;

	if (holds->list == NIL || holds->probe != NULL)
		return -1;
	pause_ms = cqrs_until_within_ms(holds->probe_at, PROBE_PAUSE_MS);
	foreach(lc, holds->list)
	{
		CqrsHold   *hold = lfirst(lc);
		long		wait_ms = Max(retry_wait_ms(hold), pause_ms);

		/* A hold that is due already waits for answers of the broker. */
		if (hold->state == CQRS_HOLD_WAITING && wait_ms > 0)
			soonest_ms = cqrs_sooner_ms(soonest_ms, wait_ms);
	}
	return soonest_ms;
}

/* Milliseconds until a held master may be probed again. */
static long
retry_wait_ms(const CqrsHold *hold)
{
	return cqrs_until_within_ms(hold->retry_at, cqrs_reconnect_delay_max_ms);
}

void
cqrs_hold_retry(CqrsHolds *holds)
{
	ListCell   *lc;

	foreach(lc, holds->list)
		((CqrsHold *) lfirst(lc))->retry_at = 0;
}

int64
cqrs_hold_min_id(const CqrsHolds *holds)
{
	int64		min = PG_INT64_MAX;
	ListCell   *lc;

	foreach(lc, holds->list)
		min = Min(min, ((CqrsHold *) lfirst(lc))->next_id);
	return min;
}

/*
 * Returns false if the master is waiting already, or if its probe will decide.
 */
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
		cqrs_hold_put_off(holds, hold);
	else
	{
		hold->state = CQRS_HOLD_WAITING;
		hold->retry_at = GetCurrentTimestamp();
	}
	return true;
}

/* Add a hold, which begins with message "id".  There is none of the master. */
static CqrsHold *
create(CqrsHolds *holds, const char *cqrs_id, int64 id)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	CqrsHold   *hold = palloc0(offsetof(CqrsHold, cqrs_id) +
							   strlen(cqrs_id) + 1);
	bool		found;

	strcpy(hold->cqrs_id, cqrs_id);
	hold->logged_at = forget_ended(holds, cqrs_id);
	hold->next_id = id;
	holds->list = lappend(holds->list, hold);
	holds_insert(holds->table, hold->cqrs_id, &found)->hold = hold;
	Assert(!found);
	MemoryContextSwitchTo(caller);
	return hold;
}

/* The hold of a master, or NULL. */
static CqrsHold *
find(const CqrsHolds *holds, const char *cqrs_id)
{
	HoldEntry  *entry = holds_lookup(holds->table, cqrs_id);

	return entry != NULL ? entry->hold : NULL;
}

/*
 * Whether none of the master's messages is in the window.  When other messages
 * are taken out of the window, positions get lower, and this may become true
 * later than it could, but never too early.
 */
static bool
is_clear(const CqrsHold *hold, const CqrsWindow *window)
{
	return cqrs_window_confirmed_total(window) >= hold->clear_at ||
		cqrs_window_confirmed_total(window) == cqrs_window_end(window);
}

/* Free the probe, which no hold has any more. */
static void
forget_probe(CqrsHolds *holds)
{
	if (holds->probe->refusal != NULL)
		pfree(unconstify(char *, holds->probe->refusal));
	pfree(holds->probe);
	holds->probe = NULL;
	holds->probing = NULL;
}

/*
 * When a hold of the master was last logged, as far as that still matters.
 * Forgets ended holds of the master, and those of others that do not matter
 * any more.
 */
static TimestampTz
forget_ended(CqrsHolds *holds, const char *cqrs_id)
{
	TimestampTz logged_at = 0;
	ListCell   *lc;

	foreach(lc, holds->ended)
	{
		CqrsHold   *hold = lfirst(lc);
		bool		same = strcmp(hold->cqrs_id, cqrs_id) == 0;

		if (!same && cqrs_until_after_ms(hold->logged_at, LOG_INTERVAL_MS) > 0)
			continue;
		if (same)
			logged_at = Max(logged_at, hold->logged_at);
		holds->ended = foreach_delete_current(holds->ended, lc);
		pfree(hold);
	}
	return logged_at;
}
