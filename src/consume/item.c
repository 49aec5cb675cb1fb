/*-------------------------------------------------------------------------
 *
 * item.c
 *	  A message of a batch: what becomes of it, within a transaction.
 *
 * Order of a row over failures.  While cqrs.failed has rows, each message is
 * looked up there by cqrs_id and instance_pk.
 *
 *	  without handler	The message has the whole state of its row, so it is
 *						tried at once.  When it has changed the row, or found
 *						a deleted row absent, older failed messages are of no
 *						use any more, dead letters included: they are removed.
 *						So is a SYNC when a later SAVE is what the row has
 *						already: both were delivered again, the SYNC failed
 *						again, and would bring an older state back.  A failed
 *						message with a higher revision than a SAVE is not of an
 *						older state: the SAVE has come late.  It stays, unless
 *						a failed DELETE is between the two.
 *						Where an older DELETE has failed, a SAVE applies
 *						whatever its revision: it is of a new row, whose
 *						revisions begin at 0.
 *	  with handler		The message may be about a part of the state, so it
 *						waits behind older ones that are to be tried again.
 *						Dead letters hold up nothing.
 *
 * A replica with a handler has each message once (handled.c).
 *
 * A message can be delivered again while its row of cqrs.failed is there (they
 * have the same message id and contents: ids alone need not differ), together with
 * all that came after it.  Without
 * handler a row takes the place of the former one: of a SAVE and a DELETE that
 * fail again, the DELETE has to be the last, or the retry of the SAVE would
 * bring the row back.  With handler the former one stays, and with it the
 * place in the order that later ones wait for.  A message that is a dead letter
 * already is not tried again: it may be the one that crashes the server.
 *
 * A user's transaction may have a row of cqrs.failed, to delete it or to have it
 * tried, for as long as it likes.  Nothing waits for it: a retry is left out until
 * then, and a new message that has to remove the row is stored behind it.  After a
 * SAVE, an earlier SAVE need not be removed, since its revision tells that it is of
 * no use; so it is locked only where it is removed.
 *
 * Messages of one cqrs_id are applied in their order also if the table gets another
 * owner between two of them: what is behind a message for another transaction is
 * left to that one as well.
 *
 * Counts are kept in the run, and become visible with its commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "consume/consumer_state.h"
#include "consume/handled.h"
#include "consume/item.h"
#include "worker/worker.h"

/* A message that waits behind another one is looked at again after this. */
#define BEHIND_MS	100
/* The same where an earlier one is locked. */
#define BUSY_MS		1000

/* A row with a message that waits for its retry. */
typedef struct CqrsWaitingRow
{
	char	   *cqrs_id;
	char	   *instance_pk;
	TimestampTz next_try;
} CqrsWaitingRow;

static CqrsStep pass_over(CqrsRun *run, const char *cqrs_id);
static bool is_passed_over(const CqrsRun *run, const char *cqrs_id);
static bool is_handled_already(CqrsRun *run, const CqrsItem *item);
static bool is_dead_already(CqrsRun *run, const CqrsItem *item);
static bool has_handler(const CqrsRun *run);
static bool is_same(const CqrsFailed *failed, const CqrsItem *item);
static bool expired(const CqrsItem *item, const CqrsReplica *replica);
static void fail_without_owner(CqrsRun *run, CqrsItem *item);
static void bury(CqrsRun *run, CqrsItem *item, const char *reason);
static void store(CqrsRun *run, CqrsItem *item, const CqrsFailedState *state);
static void wait_behind(CqrsRun *run, CqrsItem *item, TimestampTz from,
						int delay_ms, const char *reason);
static void note_waiting(CqrsRun *run, const CqrsItem *item,
						 TimestampTz next_try);
static const CqrsWaitingRow *find_waiting(const CqrsRun *run,
										  const CqrsItem *item);
static bool lock_needed(List *older, const CqrsItem *item);
static int	last_delete(List *older);
static List *older_failed(const CqrsRun *run, const CqrsItem *item);
static const CqrsFailed *waiting_before(List *older, const CqrsItem *item);
static bool settles(const CqrsRun *run, CqrsOutcome outcome,
					const CqrsFailed *older);
static bool is_later(const CqrsFailed *failed, const CqrsItem *item);
static void applied(CqrsRun *run, CqrsItem *item, List *older,
					const CqrsApplied *result);
static void log_once(CqrsRun *run, const CqrsItem *item, const char *what,
					 const char *reason);

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
			bury(run, item, "there is no replica of that name any more");
		else
		{
			run->counts[CQRS_CONSUMED_UNKNOWN]++;
			if (!cqrs_once_note(run->logged, psprintf("unknown %s", cqrs_id)))
				ereport(LOG,
						(errmsg("messages arrive for \"%s\", which is no replica",
								cqrs_id),
						 errdetail("The consumer acknowledges these messages without applying them; cqrs.consumer_stats counts them as unknown.")));
		}
		return CQRS_ITEM_SETTLED;
	}
	if (is_passed_over(run, cqrs_id))
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
	const CqrsWaitingRow *waiting = find_waiting(run, item);
	List	   *older = waiting == NULL ? older_failed(run, item) : NIL;
	const CqrsFailed *before;
	const CqrsReplica *replica;
	CqrsApplied result = {0};

	/* The search may have accepted invalidations. */
	replica = run->replica = cqrs_replica_find(item->message.cqrs_id);
	if (replica == NULL || replica->owner != run->owner)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("replica \"%s\" has changed meanwhile",
						item->message.cqrs_id)));
	if (replica->handler == NULL && !lock_needed(older, item))
	{
		wait_behind(run, item, GetCurrentTimestamp(), BUSY_MS,
					"another transaction changes an earlier failed message of the row");
		return;
	}
	before = replica->handler != NULL ? waiting_before(older, item) : NULL;
	if (waiting != NULL || before != NULL)
	{
		wait_behind(run, item,
					Max(waiting != NULL ? waiting->next_try : before->next_try,
						GetCurrentTimestamp()),
					BEHIND_MS,
					"the message waits for an earlier one of its row");
		return;
	}
	cqrs_apply_message(run->applier, replica, &item->message,
					   item->message.signal == CQRS_SAVE &&
					   last_delete(older) >= 0, &result);
	applied(run, item, older, &result);
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

static bool
has_handler(const CqrsRun *run)
{
	return run->replica != NULL && run->replica->handler != NULL;
}

/*
 * Whether a message that has been delivered again is a dead letter.  That one
 * then gets the last place, as the message would.
 */
static bool
is_dead_already(CqrsRun *run, const CqrsItem *item)
{
	ListCell   *lc;

	if (item->failed != NULL)
		return false;
	foreach(lc, older_failed(run, item))
	{
		const CqrsFailed *failed = lfirst(lc);

		if (failed->next_try != 0 || !is_same(failed, item))
			continue;
		if (cqrs_failed_lock(failed->id) == CQRS_FAILED_LOCKED)
			cqrs_failed_renew(failed->id);
		run->wrote_failed = true;
		run->counts[CQRS_CONSUMED_OUTCOMES + CQRS_OUTCOME_REPEATED]++;
		return true;
	}
	return false;
}

/* Whether a failed message is this one. */
static bool
is_same(const CqrsFailed *failed, const CqrsItem *item)
{
	CqrsIncoming message;
	bool		is_message;

	if (item->message.message_id == NULL || failed->message_id == NULL ||
		strcmp(item->message.message_id, failed->message_id) != 0)
		return false;
	is_message = cqrs_failed_message(failed->id, &message);
	if (!is_message || item->problem != NULL)
		return message.body != NULL &&
			message.length == item->message.length &&
			memcmp(message.body, item->message.body, message.length) == 0;
	return cqrs_handled_is_same(&message, &item->message);
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

static void
store(CqrsRun *run, CqrsItem *item, const CqrsFailedState *state)
{
	ListCell   *lc;

	run->wrote_failed = true;
	if (item->failed != NULL)
	{
		cqrs_failed_update(item->failed->id, state);
		if (has_handler(run) && state->next_try != 0)
			note_waiting(run, item, state->next_try);
		return;
	}
	if (has_handler(run))
		cqrs_handled_add(&item->message);
	foreach(lc, older_failed(run, item))
	{
		const CqrsFailed *failed = lfirst(lc);

		if (!is_same(failed, item))
			continue;
		if (has_handler(run))
			return;
		/* If another transaction has it, both are tried, in this order. */
		if (cqrs_failed_lock(failed->id) == CQRS_FAILED_LOCKED)
			cqrs_failed_delete(failed->id);
	}
	cqrs_failed_insert(&item->message, state);
	run->any_failed = true;
}

/* Store a message that is not tried now; that is no attempt. */
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

static bool
is_passed_over(const CqrsRun *run, const char *cqrs_id)
{
	ListCell   *lc;

	foreach(lc, run->passed_over)
	{
		if (strcmp(lfirst(lc), cqrs_id) == 0)
			return true;
	}
	return false;
}

/*
 * Later retries of the row wait behind this one.  Many of them may be due, so
 * they are not to look for it in cqrs.failed one by one.
 */
static void
note_waiting(CqrsRun *run, const CqrsItem *item, TimestampTz next_try)
{
	CqrsWaitingRow *row;
	MemoryContext caller;

	if (find_waiting(run, item) != NULL || item->message.instance_pk == NULL)
		return;
	caller = MemoryContextSwitchTo(TopTransactionContext);
	row = palloc(sizeof(CqrsWaitingRow));
	row->cqrs_id = pstrdup(item->message.cqrs_id);
	row->instance_pk = pstrdup(item->message.instance_pk);
	row->next_try = next_try;
	run->waiting = lappend(run->waiting, row);
	MemoryContextSwitchTo(caller);
}

static const CqrsWaitingRow *
find_waiting(const CqrsRun *run, const CqrsItem *item)
{
	ListCell   *lc;

	foreach(lc, run->waiting)
	{
		const CqrsWaitingRow *row = lfirst(lc);

		if (item->failed != NULL && item->message.instance_pk != NULL &&
			strcmp(row->cqrs_id, item->message.cqrs_id) == 0 &&
			strcmp(row->instance_pk, item->message.instance_pk) == 0)
			return row;
	}
	return NULL;
}

/*
 * Lock the rows that this message has to remove, if it changes the table's row: for
 * a SAVE a DELETE and all before it, and each SYNC; else all.  False if another
 * transaction has one.
 */
static bool
lock_needed(List *older, const CqrsItem *item)
{
	int			deleted = last_delete(older);
	ListCell   *lc;

	foreach(lc, older)
	{
		const CqrsFailed *failed = lfirst(lc);

		if ((item->message.signal != CQRS_SAVE ||
			 foreach_current_index(lc) <= deleted ||
			 failed->signal != CQRS_SAVE) &&
			cqrs_failed_lock(failed->id) == CQRS_FAILED_BUSY)
			return false;
	}
	return true;
}

/* The place of the last DELETE in the list, or -1. */
static int
last_delete(List *older)
{
	for (int i = list_length(older) - 1; i >= 0; i--)
	{
		if (((CqrsFailed *) list_nth(older, i))->signal == CQRS_DELETE)
			return i;
	}
	return -1;
}

/* Failed messages of the same row that are older than this one. */
static List *
older_failed(const CqrsRun *run, const CqrsItem *item)
{
	if (!run->any_failed || item->message.cqrs_id == NULL ||
		item->message.instance_pk == NULL)
		return NIL;
	return cqrs_failed_find(item->message.cqrs_id, item->message.instance_pk,
							item->failed != NULL ? item->failed->id :
							PG_INT64_MAX);
}

/* The last of these that is to be tried again, and is not this message. */
static const CqrsFailed *
waiting_before(List *older, const CqrsItem *item)
{
	const CqrsFailed *before = NULL;
	ListCell   *lc;

	foreach(lc, older)
	{
		const CqrsFailed *failed = lfirst(lc);

		if (failed->next_try != 0)
			before = failed;
		/* This message, delivered again: its row is tried in its turn. */
		if (before != NULL && is_same(failed, item))
			break;
	}
	return before;
}

/*
 * Whether an older failed message is of no use after this outcome.  An older
 * SAVE need not be removed because of a duplicate: its revision tells.
 */
static bool
settles(const CqrsRun *run, CqrsOutcome outcome, const CqrsFailed *older)
{
	return outcome == CQRS_OUTCOME_INSERTED ||
		outcome == CQRS_OUTCOME_UPDATED || outcome == CQRS_OUTCOME_DELETED ||
		outcome == CQRS_OUTCOME_ABSENT ||
		(outcome == CQRS_OUTCOME_DUPLICATE && older->signal == CQRS_SYNC &&
		 !has_handler(run));
}

/* Whether a SAVE has come later than a failed message of a later state. */
static bool
is_later(const CqrsFailed *failed, const CqrsItem *item)
{
	CqrsIncoming message;
	int64		failed_revision;
	int64		revision;

	return item->message.signal == CQRS_SAVE && failed->signal != CQRS_DELETE &&
		cqrs_failed_message(failed->id, &message) &&
		cqrs_envelope_revision(&message, &failed_revision) &&
		cqrs_envelope_revision(&item->message, &revision) &&
		failed_revision > revision;
}

/* A message is applied: remove what it settles, and count it. */
static void
applied(CqrsRun *run, CqrsItem *item, List *older, const CqrsApplied *result)
{
	CqrsOutcome outcome = result->outcome;
	int			deleted = last_delete(older);
	ListCell   *lc;

	foreach(lc, older)
	{
		const CqrsFailed *failed = lfirst(lc);

		if (!settles(run, outcome, failed) ||
			(foreach_current_index(lc) > deleted && is_later(failed, item)) ||
			cqrs_failed_lock(failed->id) != CQRS_FAILED_LOCKED)
			continue;
		cqrs_failed_delete(failed->id);
		run->wrote_failed = true;
	}
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
	if (!cqrs_once_note(run->logged,
						psprintf("keys %s", item->message.cqrs_id)))
		ereport(LOG,
				(errmsg("messages for replica \"%s\" have keys without a column",
						item->message.cqrs_id),
				 errdetail("These keys are ignored; cqrs.consumer_stats counts such messages as unknown_keys.")));
}

/*
 * The last error in any case; one line in the log for each replica and kind of
 * error.
 */
static void
log_once(CqrsRun *run, const CqrsItem *item, const char *what,
		 const char *reason)
{
	const char *cqrs_id = item->message.cqrs_id != NULL ?
	item->message.cqrs_id : "unknown";

	cqrs_worker_set_error(reason);
	if (cqrs_once_note(run->logged, psprintf("%s %s", what, cqrs_id)))
		return;
	ereport(LOG,
			(errmsg("a message for replica \"%s\" could not be applied: %s",
					cqrs_id, reason),
			 errdetail("The message is in cqrs.failed; others are applied.")));
}
