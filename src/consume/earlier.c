/*-------------------------------------------------------------------------
 *
 * earlier.c
 *	  Failed messages of a row, and the messages that come after them.
 *
 * While cqrs.failed has rows, each message is looked up there by cqrs_id and
 * instance_pk.  The failed messages that are found keep the messages of the
 * row in order:
 *
 *	  without handler	The message has the whole state of its row, so it is
 *						tried at once.  When it has changed the row, or found a
 *						deleted row absent, older failed messages are of no use
 *						any more, dead letters included: they are removed.  So
 *						is a SYNC when a later SAVE is what the row has
 *						already: both were delivered again, the SYNC failed
 *						again, and would bring an older state back.  A failed
 *						message with a higher revision than a SAVE is not of an
 *						older state: the SAVE has come late.  The failed
 *						message stays, unless a failed DELETE is between the
 *						two.  Where an older DELETE has failed, a SAVE applies
 *						whatever its revision: the SAVE is of a new row, whose
 *						revisions begin at 0.
 *	  with handler		The message may be about a part of the state, so it
 *						waits behind older ones that are to be tried again.
 *						Dead letters hold up nothing.
 *
 * A message can be delivered again while its row of cqrs.failed is there (they
 * have the same message id and contents: ids alone need not differ), together with
 * all that came after it.  Without handler a row takes the place of the former
 * one: of a SAVE and a DELETE that fail again, the DELETE has to be the last, or
 * the retry of the SAVE would bring the row back.  With handler the former one
 * stays, and with it the place in the order that later ones wait for.  A message
 * that is a dead letter already is not tried again: it may be the one that crashes
 * the server.
 *
 * A user's transaction may have a row of cqrs.failed, to delete it or to have
 * it tried, for as long as it likes.  Nothing waits for such a transaction: a
 * retry is left out until it has ended, and a new message that has to remove
 * the row is stored behind the row.  After a SAVE, an earlier SAVE need not be
 * removed, because its revision shows that it is of no use.  So an earlier
 * SAVE is locked only if it is removed.
 *
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "apply/plan.h"
#include "consume/earlier.h"
#include "consume/handled.h"

static int	last_delete(const List *earlier);
static bool settles(const CqrsRun *run, CqrsOutcome outcome,
					const CqrsFailed *failed);
static bool is_later(const CqrsRun *run, const CqrsFailed *failed,
					 const CqrsItem *item);

List *
cqrs_earlier_find(const CqrsRun *run, const CqrsItem *item)
{
	if (!run->any_failed || item->message.cqrs_id == NULL ||
		item->message.instance_pk == NULL)
		return NIL;
	return cqrs_failed_find(item->message.cqrs_id, item->message.instance_pk,
							item->failed != NULL ? item->failed->id :
							PG_INT64_MAX);
}

bool
cqrs_earlier_is_same(const CqrsFailed *failed, const CqrsItem *item)
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

const CqrsFailed *
cqrs_earlier_waiting(const List *earlier, const CqrsItem *item)
{
	const CqrsFailed *before = NULL;
	ListCell   *lc;

	foreach(lc, earlier)
	{
		const CqrsFailed *failed = lfirst(lc);

		if (failed->next_try != 0)
			before = failed;
		/* This message, delivered again: its row is tried in its turn. */
		if (before != NULL && cqrs_earlier_is_same(failed, item))
			break;
	}
	return before;
}

void
cqrs_earlier_put_off(CqrsRun *run, const CqrsItem *item, TimestampTz next_try)
{
	CqrsPutOff *row;
	MemoryContext caller;

	if (cqrs_earlier_find_put_off(run, item) != NULL ||
		item->message.instance_pk == NULL)
		return;
	caller = MemoryContextSwitchTo(TopTransactionContext);
	row = palloc(sizeof(CqrsPutOff));
	row->cqrs_id = pstrdup(item->message.cqrs_id);
	row->instance_pk = pstrdup(item->message.instance_pk);
	row->next_try = next_try;
	run->put_off = lappend(run->put_off, row);
	MemoryContextSwitchTo(caller);
}

const CqrsPutOff *
cqrs_earlier_find_put_off(const CqrsRun *run, const CqrsItem *item)
{
	ListCell   *lc;

	if (item->failed == NULL || item->message.instance_pk == NULL)
		return NULL;
	foreach(lc, run->put_off)
	{
		const CqrsPutOff *row = lfirst(lc);

		if (strcmp(row->cqrs_id, item->message.cqrs_id) == 0 &&
			strcmp(row->instance_pk, item->message.instance_pk) == 0)
			return row;
	}
	return NULL;
}

bool
cqrs_earlier_has_delete(const List *earlier)
{
	return last_delete(earlier) >= 0;
}

bool
cqrs_earlier_lock(const List *earlier, const CqrsItem *item)
{
	int			deleted = last_delete(earlier);
	ListCell   *lc;

	foreach(lc, earlier)
	{
		const CqrsFailed *failed = lfirst(lc);

		if ((item->message.signal != CQRS_SIGNAL_SAVE ||
			 foreach_current_index(lc) <= deleted ||
			 failed->signal != CQRS_SIGNAL_SAVE) &&
			cqrs_failed_lock(failed->id) == CQRS_FAILED_BUSY)
			return false;
	}
	return true;
}

void
cqrs_earlier_settle(CqrsRun *run, const List *earlier, const CqrsItem *item,
					CqrsOutcome outcome)
{
	int			deleted = last_delete(earlier);
	ListCell   *lc;

	foreach(lc, earlier)
	{
		const CqrsFailed *failed = lfirst(lc);

		Assert(item->failed == NULL || failed->id < item->failed->id);	/* I27 */
		if (!settles(run, outcome, failed) ||
			(foreach_current_index(lc) > deleted &&
			 is_later(run, failed, item)) ||
			cqrs_failed_lock(failed->id) != CQRS_FAILED_LOCKED)
			continue;
		cqrs_failed_delete(failed->id);
		run->wrote_failed = true;
	}
}

/* The place of the last DELETE in the list, or -1. */
static int
last_delete(const List *earlier)
{
	for (int i = list_length(earlier) - 1; i >= 0; i--)
	{
		if (((CqrsFailed *) list_nth(earlier, i))->signal == CQRS_SIGNAL_DELETE)
			return i;
	}
	return -1;
}

/*
 * Whether a failed message is of no use after this outcome.  A SAVE need not
 * be removed because of a duplicate: its revision shows that it is of no use.
 */
static bool
settles(const CqrsRun *run, CqrsOutcome outcome, const CqrsFailed *failed)
{
	return outcome == CQRS_OUTCOME_INSERTED ||
		outcome == CQRS_OUTCOME_UPDATED || outcome == CQRS_OUTCOME_DELETED ||
		outcome == CQRS_OUTCOME_ABSENT ||
		(outcome == CQRS_OUTCOME_DUPLICATE && failed->signal == CQRS_SIGNAL_SYNC &&
		 run->replica->handler == NULL);
}

/* Whether a SAVE has come later than a failed message of a later state. */
static bool
is_later(const CqrsRun *run, const CqrsFailed *failed, const CqrsItem *item)
{
	const CqrsMapping *mapping;
	const char *key;
	CqrsIncoming message;
	int64		failed_revision;
	int64		revision;

	if (item->message.signal != CQRS_SIGNAL_SAVE || failed->signal == CQRS_SIGNAL_DELETE ||
		!OidIsValid(run->replica->relid) ||
		!cqrs_failed_message(failed->id, &message))
		return false;
	mapping = &cqrs_plan_get(run->applier, run->replica)->mapping;
	key = mapping->columns[mapping->revision].key;
	return cqrs_envelope_revision(&message, key, &failed_revision) &&
		cqrs_envelope_revision(&item->message, key, &revision) &&
		failed_revision > revision;
}
