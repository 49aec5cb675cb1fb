/*-------------------------------------------------------------------------
 *
 * item.c
 *	  A message of a batch: what becomes of it, within a transaction.
 *
 * A replica with a handler has each message once (handled.c).  Failed messages keep
 * the order of their row (earlier.c).
 *
 * Messages of one cqrs_id are applied in their order also if the table gets
 * another owner between two of them: messages behind a message for another
 * transaction are left to that transaction as well.
 *
 * Counts are kept in the run, and become visible with its commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/limits.h"
#include "base/strings.h"
#include "consume/consumer_state.h"
#include "consume/earlier.h"
#include "consume/handled.h"
#include "consume/item.h"
#include "worker/worker.h"

/* A message that waits behind another one is looked at again after this. */
#define BEHIND_MS	100
/* The same if another transaction has locked an earlier message. */
#define BUSY_MS		1000
/* The longest text of an error in the log; cqrs.failed has all of it. */
#define LOGGED_BYTES	1000

static CqrsStep pass_over(CqrsRun *run, const char *cqrs_id);
static bool is_handled_already(CqrsRun *run, const CqrsItem *item);
static bool is_dead_already(CqrsRun *run, const CqrsItem *item);
pg_noreturn static void refuse_changed(const CqrsItem *item);
static bool has_handler(const CqrsRun *run);
static bool expired(const CqrsItem *item, const CqrsReplica *replica);
static void fail_without_owner(CqrsRun *run, CqrsItem *item);
static void bury(CqrsRun *run, CqrsItem *item, const char *reason);
static void store(CqrsRun *run, CqrsItem *item, const CqrsFailedState *state);
static void wait_behind(CqrsRun *run, CqrsItem *item, TimestampTz from,
						int delay_ms, const char *reason);
static void applied(CqrsRun *run, CqrsItem *item, List *earlier,
					const CqrsApplied *result);
static void log_once(CqrsRun *run, const CqrsItem *item, const char *what,
					 const char *reason);
static const char *logged_name(const CqrsItem *item);
static const char *logged_text(const char *text, int most);

bool
cqrs_item_take(CqrsRun *run, const CqrsItem *item)
{
	CqrsFailedLock lock;

	if (item->failed == NULL)
		return true;
	lock = cqrs_failed_lock(item->failed->id);
	run->busy = run->busy || lock == CQRS_FAILED_BUSY;
	return lock == CQRS_FAILED_LOCKED;
}

CqrsStep
cqrs_item_begin(CqrsRun *run, CqrsItem *item)
{
	const char *cqrs_id = item->message.cqrs_id;

	run->replica = NULL;
	item->applied = false;
	if (item->problem != NULL)
	{
		bury(run, item, item->problem);
		return CQRS_ITEM_SETTLED;
	}
	run->replica = cqrs_replica_find(cqrs_id);
	if (run->replica == NULL)
	{
		if (item->failed != NULL)
			bury(run, item, "the replica does not exist any more");
		else
		{
			run->counts[CQRS_CONSUMED_UNKNOWN]++;
			if (cqrs_quota_take_once(run->quota, run->logged,
									 psprintf("unknown %s", logged_name(item))))
				ereport(LOG,
						(errmsg("messages arrive for \"%s\", which is no replica",
								logged_name(item)),
						 errdetail("The consumer acknowledges these messages without applying them; cqrs.consumer_stats counts them as unknown.")));
		}
		return CQRS_ITEM_SETTLED;
	}
	if (cqrs_strings_have(run->passed_over, cqrs_id))
		return CQRS_ITEM_OTHER_OWNER;
	if (is_handled_already(run, item) || is_dead_already(run, item))
		return CQRS_ITEM_SETTLED;
	if (expired(item, run->replica))
	{
		bury(run, item, "the message has expired");
		return CQRS_ITEM_SETTLED;
	}
	if (!OidIsValid(run->replica->owner))
	{
		fail_without_owner(run, item);
		return CQRS_ITEM_SETTLED;
	}
	if (OidIsValid(run->owner) && run->replica->owner != run->owner)
		return pass_over(run, cqrs_id);
	if (run->applier == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);

		run->owner = run->replica->owner;
		run->applier = cqrs_apply_begin(run->owner);
		MemoryContextSwitchTo(caller);
	}
	return CQRS_ITEM_APPLIES;
}

void
cqrs_item_apply(CqrsRun *run, CqrsItem *item)
{
	const CqrsPutOff *put_off = cqrs_earlier_find_put_off(run, item);
	List	   *earlier = put_off == NULL ? cqrs_earlier_find(run, item) : NIL;
	const CqrsFailed *before;
	const CqrsReplica *replica;
	bool		handles = has_handler(run);
	CqrsApplied result = {0};

	/* The search may have accepted invalidations. */
	replica = run->replica = cqrs_replica_find(item->message.cqrs_id);
	if (replica == NULL || replica->owner != run->owner)
		refuse_changed(item);
	if (replica->handler == NULL && !cqrs_earlier_lock(earlier, item))
	{
		wait_behind(run, item, GetCurrentTimestamp(), BUSY_MS,
					"another transaction changes an earlier failed message of the row");
		return;
	}
	before = replica->handler != NULL ? cqrs_earlier_waiting(earlier, item) : NULL;
	if (put_off != NULL || before != NULL)
	{
		wait_behind(run, item,
					Max(put_off != NULL ? put_off->next_try : before->next_try,
						GetCurrentTimestamp()),
					BEHIND_MS,
					"the message waits for an earlier one of its row");
		return;
	}
	Assert(GetUserId() == run->owner);	/* I30 */
	cqrs_apply_message(run->applier, replica, &item->message,
					   item->message.signal == CQRS_SIGNAL_SAVE &&
					   cqrs_earlier_has_delete(earlier), &result);

	/* It may have waited for a transaction that has changed the replica. */
	if (result.has_handler != handles)
		refuse_changed(item);
	applied(run, item, earlier, &result);
}

static void
refuse_changed(const CqrsItem *item)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("replica \"%s\" was changed concurrently",
					item->message.cqrs_id)));
}

void
cqrs_item_fail(CqrsRun *run, CqrsItem *item, const CqrsProblem *problem,
			   bool counts)
{
	CqrsFailedState state;
	int			attempts = item->failed != NULL ? item->failed->attempts :
	item->message.retries;

	item->applied = false;
	if (item->problem != NULL)
	{
		bury(run, item, item->problem);
		return;
	}
	cqrs_verdict_decide(run->replica, &item->message, attempts, problem, counts,
						&state);
	store(run, item, &state);
	run->counts[CQRS_CONSUMED_FAILURES]++;
	if (state.next_try == 0)
		run->counts[CQRS_CONSUMED_DEAD_LETTERS]++;
	log_once(run, item, problem->sqlstate, problem->message);
}

/*
 * Whether a message that has been delivered again was handled, or stored, for a
 * replica with a handler.
 */
static bool
is_handled_already(CqrsRun *run, const CqrsItem *item)
{
	if (item->failed != NULL || !has_handler(run) ||
		!cqrs_handled_has(&item->message, item->redelivered))
		return false;
	run->counts[CQRS_CONSUMED_OUTCOMES + CQRS_OUTCOME_REPEATED]++;
	return true;
}

/* False for a replica that is not known, too. */
static bool
has_handler(const CqrsRun *run)
{
	return run->replica != NULL && run->replica->handler != NULL;
}

/*
 * Whether a message that has been delivered again is a dead letter.  The dead
 * letter then gets the last place, as the message would.
 */
static bool
is_dead_already(CqrsRun *run, const CqrsItem *item)
{
	ListCell   *lc;

	if (item->failed != NULL)
		return false;
	foreach(lc, cqrs_earlier_find(run, item))
	{
		const CqrsFailed *failed = lfirst(lc);

		if (failed->next_try != 0 || !cqrs_earlier_is_same(failed, item))
			continue;
		if (cqrs_failed_lock(failed->id) == CQRS_FAILED_LOCKED)
			cqrs_failed_renew(failed->id);
		run->wrote_failed = true;
		run->counts[CQRS_CONSUMED_OUTCOMES + CQRS_OUTCOME_REPEATED]++;
		return true;
	}
	return false;
}

/* Only what has just been received expires. */
static bool
expired(const CqrsItem *item, const CqrsReplica *replica)
{
	return item->failed == NULL && item->message.expires &&
		item->message.expires_at <= GetCurrentTimestamp() &&
		!replica->apply_expired;
}

/* A replica without a table whose handler is gone: nobody's rights are left. */
static void
fail_without_owner(CqrsRun *run, CqrsItem *item)
{
	CqrsProblem problem = {
		.code = ERRCODE_UNDEFINED_FUNCTION,
		.message = psprintf("the handler of replica \"%s\" does not exist",
							item->message.cqrs_id)
	};

	strlcpy(problem.sqlstate, unpack_sql_state(problem.code),
			sizeof(problem.sqlstate));
	problem.full = problem.message;
	cqrs_item_fail(run, item, &problem, true);
}

/* Make a message a dead letter, without an attempt. */
static void
bury(CqrsRun *run, CqrsItem *item, const char *reason)
{
	CqrsFailedState state = {
		.attempts = item->failed != NULL ? item->failed->attempts :
		item->message.retries,
		.error = reason
	};

	store(run, item, &state);
	run->counts[CQRS_CONSUMED_DEAD_LETTERS]++;
	log_once(run, item, "dead letter", reason);
}

/* Write the message to cqrs.failed: as a new row, or with a new state. */
static void
store(CqrsRun *run, CqrsItem *item, const CqrsFailedState *state)
{
	ListCell   *lc;

	run->wrote_failed = true;
	if (item->failed != NULL)
	{
		cqrs_failed_update(item->failed->id, state);
		if (has_handler(run) && state->next_try != 0)
			cqrs_earlier_put_off(run, item, state->next_try);
		return;
	}
	if (has_handler(run))
		cqrs_handled_add(&item->message);
	foreach(lc, cqrs_earlier_find(run, item))
	{
		const CqrsFailed *failed = lfirst(lc);

		if (!cqrs_earlier_is_same(failed, item))
			continue;
		if (has_handler(run))
			return;

		/*
		 * If another transaction has locked the row, both are tried, in this
		 * order.
		 */
		if (cqrs_failed_lock(failed->id) == CQRS_FAILED_LOCKED)
			cqrs_failed_delete(failed->id);
	}
	cqrs_failed_insert(&item->message, state);
	run->any_failed = true;
}

/* Store a message that is not tried now.  No attempt is counted. */
static void
wait_behind(CqrsRun *run, CqrsItem *item, TimestampTz from, int delay_ms,
			const char *reason)
{
	CqrsFailedState state = {
		.attempts = item->failed != NULL ? item->failed->attempts :
		item->message.retries,
		/* A user may have put off the earlier one for ever. */
		.next_try = TIMESTAMP_NOT_FINITE(from) ? from :
		TimestampTzPlusMilliseconds(from, delay_ms),
		.error = reason
	};

	store(run, item, &state);
}

/* The message, and later ones of its replica, are for another transaction. */
static CqrsStep
pass_over(CqrsRun *run, const char *cqrs_id)
{
	MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);

	run->passed_over = lappend(run->passed_over, pstrdup(cqrs_id));
	MemoryContextSwitchTo(caller);
	return CQRS_ITEM_OTHER_OWNER;
}

/* A message is applied: remove what it settles, and count it. */
static void
applied(CqrsRun *run, CqrsItem *item, List *earlier, const CqrsApplied *result)
{
	CqrsOutcome outcome = result->outcome;

	cqrs_earlier_settle(run, earlier, item, outcome);
	if (item->failed != NULL)
	{
		cqrs_failed_delete(item->failed->id);
		run->wrote_failed = true;
		run->counts[CQRS_CONSUMED_RETRIED]++;
	}
	if (has_handler(run))
		cqrs_handled_add(&item->message);
	item->applied = true;
	run->counts[CQRS_CONSUMED_OUTCOMES + outcome]++;
	run->counts[CQRS_CONSUMED_GAPS] += result->gap ? 1 : 0;
	run->counts[CQRS_CONSUMED_DOWNGRADES] += result->downgrade ? 1 : 0;
	if (!result->unknown_keys)
		return;
	run->counts[CQRS_CONSUMED_UNKNOWN_KEYS]++;
	if (cqrs_quota_take_once(run->quota, run->logged,
							 psprintf("keys %s", item->message.cqrs_id)))
		ereport(LOG,
				(errmsg("messages for replica \"%s\" have keys without a column",
						item->message.cqrs_id),
				 errdetail("These keys are ignored; cqrs.consumer_stats counts such messages as unknown_keys.")));
}

/*
 * Set the last error in any case.  Log one line for each replica and kind of
 * error.
 */
static void
log_once(CqrsRun *run, const CqrsItem *item, const char *what,
		 const char *reason)
{
	const char *cqrs_id = logged_name(item);

	cqrs_worker_set_error(reason);
	if (!cqrs_quota_take_once(run->quota, run->logged,
							  psprintf("%s %s", what, cqrs_id)))
		return;
	ereport(LOG,
			(errmsg("a message for replica \"%s\" could not be applied: %s",
					cqrs_id, logged_text(reason, LOGGED_BYTES)),
			 errdetail("The message is in cqrs.failed; other messages are applied.")));
}

/* The cqrs_id for the log, where no replica has a longer one. */
static const char *
logged_name(const CqrsItem *item)
{
	return item->message.cqrs_id == NULL ? "unknown" :
		logged_text(item->message.cqrs_id, CQRS_ID_BYTES);
}

/*
 * A text for the log and for what is kept of it.  Whoever sends messages decides
 * how long texts are, those of errors too, which quote values.
 */
static const char *
logged_text(const char *text, int most)
{
	Size		length = strlen(text);

	if (length <= most)
		return text;
	return psprintf("%.*s...", pg_mbcliplen(text, length, most), text);
}
