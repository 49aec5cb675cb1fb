/*-------------------------------------------------------------------------
 *
 * hold.c
 *	  Masters whose messages the broker does not take now.
 *
 * The reason is not in a message but in its route: no queue is bound and
 * cqrs.unroutable is "keep", a queue refuses more, the exchange is missing or
 * not permitted.  The master's messages then stay in the outbox, whatever
 * their number, and other masters flow on.  After a delay that doubles, the
 * first of them is sent as a probe.  When that is taken the others follow in
 * the order of the outbox, and when none is left the hold ends.
 *
 * Order per row: messages of a held master are put into the window in the
 * order of their ids.  One that becomes visible late with an id below next_id
 * is of a row that no message in between can be of (reader.c), so it goes
 * into the window at once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/timing.h"
#include "publish/hold.h"

/* It is logged once in this time that a master is held. */
#define TELL_INTERVAL_MS	60000

static CqrsHold *find(const CqrsHolds *holds, const char *cqrs_id);
static TimestampTz forget_ended(CqrsHolds *holds, const char *cqrs_id);

CqrsHolds  *
cqrs_holds_create(void)
{
	return MemoryContextAllocZero(TopMemoryContext, sizeof(CqrsHolds));
}

bool
cqrs_holds_add(CqrsHolds *holds, const char *cqrs_id, int64 id)
{
	CqrsHold   *hold = find(holds, cqrs_id);

	if (hold != NULL && hold->state == CQRS_HOLD_WAITING)
	{
		hold->next_id = Min(hold->next_id, id);
		return false;
	}
	if (hold == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);

		hold = palloc0(offsetof(CqrsHold, cqrs_id) + strlen(cqrs_id) + 1);
		strcpy(hold->cqrs_id, cqrs_id);
		hold->told_at = forget_ended(holds, cqrs_id);
		hold->next_id = id;
		holds->list = lappend(holds->list, hold);
		MemoryContextSwitchTo(caller);
	}
	hold->state = CQRS_HOLD_WAITING;
	hold->next_id = Min(hold->next_id, id);
	hold->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												 cqrs_backoff_ms(hold->failures));
	hold->failures++;
	return true;
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
cqrs_holds_keep(const CqrsHolds *holds, const char *cqrs_id, int64 id)
{
	CqrsHold   *hold = find(holds, cqrs_id);

	return hold != NULL && id >= hold->next_id;
}

void
cqrs_holds_remove(CqrsHolds *holds, CqrsHold *hold)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);

	holds->list = list_delete_ptr(holds->list, hold);
	holds->ended = lappend(holds->ended, hold);
	MemoryContextSwitchTo(caller);
}

bool
cqrs_hold_is_due(const CqrsHold *hold, const CqrsWindow *window)
{
	switch (hold->state)
	{
		case CQRS_HOLD_WAITING:
			/* What was sent before has to be answered: it may come back. */
			return cqrs_until_ms(hold->retry_at) == 0 &&
				cqrs_window_has_room(window) &&
				!cqrs_window_has_master(window, hold->cqrs_id);
		case CQRS_HOLD_PROBING:
			return cqrs_window_find(window, hold->probe_id) == NULL;
		case CQRS_HOLD_CATCHING_UP:
			return cqrs_window_has_room(window);
	}
	return false;
}

bool
cqrs_holds_are_due(const CqrsHolds *holds, const CqrsWindow *window)
{
	ListCell   *lc;

	foreach(lc, holds->list)
	{
		if (cqrs_hold_is_due(lfirst(lc), window))
			return true;
	}
	return false;
}

long
cqrs_holds_wait_ms(const CqrsHolds *holds)
{
	long		wait_ms = -1;
	ListCell   *lc;

	foreach(lc, holds->list)
	{
		CqrsHold   *hold = lfirst(lc);
		long		rest_ms = cqrs_until_ms(hold->retry_at);

		/* Past that, answers of the broker are waited for. */
		if (hold->state == CQRS_HOLD_WAITING && rest_ms > 0)
			wait_ms = cqrs_sooner_ms(wait_ms, rest_ms);
	}
	return wait_ms;
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

static CqrsHold *
find(const CqrsHolds *holds, const char *cqrs_id)
{
	ListCell   *lc;

	foreach(lc, holds->list)
	{
		if (strcmp(((CqrsHold *) lfirst(lc))->cqrs_id, cqrs_id) == 0)
			return lfirst(lc);
	}
	return NULL;
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
