/*-------------------------------------------------------------------------
 *
 * apply.c
 *	  A message becomes a change of a row, by the rules of revisions.
 *
 * The rules are those of django-cqrs's replicas:
 *
 *	  SAVE		applied if the row is unknown, or its revision is lower
 *	  SYNC		applied in any case
 *	  DELETE	applied in any case; nothing to do if the row is unknown
 *
 * With soft_delete a deleted row stays in the table, marked as deleted.  To
 * these rules the row is unknown: the next row with its key starts at revision
 * 0 again.
 *
 * Rights.  Messages are applied as the owner of the table, with
 * SECURITY_LOCAL_USERID_CHANGE: the owner's triggers and functions have the
 * owner's rights, and cannot take others.  A restricted operation would refuse
 * deferred constraints.  A caller that commits must do so as the owner,
 * because deferred triggers run at the commit.
 *
 * Memory.  The values of a message are in "cqrs applied message", which the
 * next message resets.  A message that is applied from within another one, by
 * a handler or a trigger, has a context of its own.
 *
 * Errors leave as they are raised, with a context that names the message.  The
 * end of the (sub)transaction undoes all that has to be undone after them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "apply/apply.h"
#include "apply/content.h"
#include "apply/handle.h"
#include "apply/incoming.h"
#include "apply/plan.h"
#include "apply/settings.h"
#include "apply/stored_row.h"
#include "base/error_context.h"

/* A message while it is applied. */
typedef struct Work
{
	CqrsApplier *applier;
	CqrsContent content;
	bool		whatever_revision;
	bool		calls_handler;
	CqrsApplied *applied;
	CqrsTable  *table;
	CqrsLeaf   *leaf;
	bool		found;			/* the row is there; it may be marked */
} Work;

/* Who the user was before cqrs_apply_begin(). */
static bool rights_changed = false;
static Oid	rights_user;
static int	rights_context;

/* The applier of the transaction, for cqrs_apply() in handlers. */
static CqrsApplier *current_applier = NULL;

static void apply_in_context(Work *work, const CqrsReplica *replica);
static void apply(Work *work);
static void call_handler(Work *work);
static void error_context(void *arg);
static void apply_to_table(Work *work);
static bool is_marked(Work *work);
static bool is_later(Work *work);
static bool decide(Work *work);
static void compare_revisions(Work *work);
static void write_row(Work *work);
static void insert_row(Work *work);
static void update_row(Work *work);
static void set_columns(Work *work);
static void set_mark(Work *work, bool deleted);
static void mark_row(Work *work);

CqrsApplier *
cqrs_apply_begin(Oid owner)
{
	Assert(!rights_changed && OidIsValid(owner));	/* I23 */
	GetUserIdAndSecContext(&rights_user, &rights_context);
	rights_changed = true;
	SetUserIdAndSecContext(owner, rights_context |
						   SECURITY_LOCAL_USERID_CHANGE);
	cqrs_settings_pin(GUC_ACTION_LOCAL);
	current_applier = cqrs_plan_create_applier(owner);
	return current_applier;
}

void
cqrs_apply_end(CqrsApplier *applier)
{
	cqrs_plan_close_all(applier);
	current_applier = NULL;
}

void
cqrs_apply_forget(void)
{
	if (rights_changed)
		SetUserIdAndSecContext(rights_user, rights_context);
	rights_changed = false;
	current_applier = NULL;
}

CqrsApplier *
cqrs_apply_current(void)
{
	return current_applier;
}

void
cqrs_apply_message(CqrsApplier *applier, const CqrsReplica *replica,
				   const CqrsIncoming *message, bool whatever_revision,
				   CqrsApplied *applied)
{
	Work		work = {0};

	work.applier = applier;
	work.content.message = message;
	work.whatever_revision = whatever_revision;
	work.calls_handler = true;
	work.applied = applied;
	apply_in_context(&work, replica);
}

void
cqrs_apply_by_default(CqrsApplier *applier, const CqrsReplica *replica,
					  const CqrsIncoming *message, CqrsApplied *applied)
{
	Work		work = {0};

	work.applier = applier;
	work.content.message = message;
	work.applied = applied;
	apply_in_context(&work, replica);
}

/*
 * Apply a message with a snapshot and memory of its own, as the current
 * message.
 */
static void
apply_in_context(Work *work, const CqrsReplica *replica)
{
	const CqrsIncoming *outer = cqrs_incoming_current;
	CqrsApplier *applier = work->applier;
	MemoryContext caller = CurrentMemoryContext;

	Assert(GetUserId() == applier->owner);	/* I23 */
	memset(work->applied, 0, sizeof(*work->applied));
	if (outer == NULL)
	{
		MemoryContextReset(applier->message_context);
		MemoryContextSwitchTo(applier->message_context);
	}
	else
		MemoryContextSwitchTo(AllocSetContextCreate(caller,
													"cqrs inner message",
													ALLOCSET_SMALL_SIZES));
	PushActiveSnapshot(GetTransactionSnapshot());
	cqrs_incoming_current = work->content.message;
	PG_TRY();
	{
		work->content.plan = cqrs_plan_get(applier, replica);
		work->applied->has_handler = work->content.plan->handler != NULL;
		apply(work);
	}
	PG_FINALLY();
	{
		cqrs_incoming_current = outer;
	}
	PG_END_TRY();
	CommandCounterIncrement();
	PopActiveSnapshot();
	if (outer != NULL)
		MemoryContextDelete(CurrentMemoryContext);
	MemoryContextSwitchTo(caller);
}

/*
 * Set the outcome: nothing is done (IGNORED), or the table or the handler has
 * had the message.  Raises the error of the message.
 */
static void
apply(Work *work)
{
	ErrorContextCallback callback;

	cqrs_error_context_push(&callback, error_context, work);
	if (work->content.message->signal == CQRS_SIGNAL_SYNC && work->content.plan->only_direct_syncs &&
		!work->content.message->direct)
		work->applied->outcome = CQRS_OUTCOME_IGNORED;
	else if (OidIsValid(work->content.plan->relid))
		apply_to_table(work);
	else
		call_handler(work);
	cqrs_error_context_pop(&callback);
}

/* Raises an error unless the handler returns true. */
static void
call_handler(Work *work)
{
	cqrs_handle_message(work->content.plan, work->content.message);
	work->applied->outcome = CQRS_OUTCOME_HANDLED;
}

static void
error_context(void *arg)
{
	Work	   *work = arg;

	if (work->content.reading != NULL)
		errcontext("key \"%s\" of %s of replica \"%s\", instance_pk %s",
				   work->content.reading, cqrs_signal_name(work->content.message->signal),
				   work->content.message->cqrs_id, work->content.message->instance_pk);
	else
		errcontext("%s of replica \"%s\", instance_pk %s",
				   cqrs_signal_name(work->content.message->signal),
				   work->content.message->cqrs_id, work->content.message->instance_pk);
}

/*
 * Set the outcome of a replica with a table.  The table is not kept busy while
 * a handler runs.
 */
static void
apply_to_table(Work *work)
{
	bool		is_delete = work->content.message->signal == CQRS_SIGNAL_DELETE;

	cqrs_content_read_keys(&work->content);
	work->applied->unknown_keys = work->content.unknown_keys;
	work->table = cqrs_plan_open(work->applier, work->content.plan);
	work->leaf = cqrs_table_leaf(work->table, work->content.keys, is_delete);
	work->found = work->leaf != NULL &&
		cqrs_stored_row_find(work->leaf, work->content.keys,
							 is_delete ? LockTupleExclusive :
							 LockTupleNoKeyExclusive);
	if (!decide(work))
		cqrs_plan_close(work->content.plan, work->table);
	else if (work->calls_handler && work->content.plan->handler != NULL)
	{
		cqrs_plan_close(work->content.plan, work->table);
		call_handler(work);
	}
	else
	{
		write_row(work);
		cqrs_plan_close(work->content.plan, work->table);
	}
}

/* Whether the row that was found is marked as deleted. */
static bool
is_marked(Work *work)
{
	AttrNumber	mark = work->content.plan->mapping.soft_delete;
	bool		isnull;
	Datum		value;

	if (mark == InvalidAttrNumber)
		return false;
	value = cqrs_stored_row_get_old(work->leaf, mark, &isnull);
	return !isnull &&
		(TupleDescAttr(RelationGetDescr(work->table->rel),
					   mark - 1)->atttypid != BOOLOID || DatumGetBool(value));
}

/*
 * Whether the row is later than a DELETE with "not_after", which then leaves
 * the row.
 */
static bool
is_later(Work *work)
{
	const CqrsMapping *mapping = &work->content.plan->mapping;
	TimestampTz not_after = work->content.message->not_after;
	bool		isnull;
	Datum		value;

	if (not_after == 0)
		return false;
	value = cqrs_stored_row_get_old(work->leaf,
									mapping->columns[mapping->updated].attnum,
									&isnull);
	return !isnull && DatumGetTimestampTz(value) > not_after;
}

/* Decide the outcome.  Returns whether the message changes the row. */
static bool
decide(Work *work)
{
	CqrsApplied *applied = work->applied;
	bool		alive = work->found && !is_marked(work);

	if (work->content.message->signal == CQRS_SIGNAL_DELETE)
	{
		applied->outcome = alive ? CQRS_OUTCOME_DELETED : CQRS_OUTCOME_ABSENT;
		if (alive && is_later(work))
			applied->outcome = CQRS_OUTCOME_OUTDATED;
	}
	else
	{
		applied->outcome = work->found ? CQRS_OUTCOME_UPDATED :
			CQRS_OUTCOME_INSERTED;
		if (alive)
			compare_revisions(work);
	}
	return applied->outcome == CQRS_OUTCOME_INSERTED ||
		applied->outcome == CQRS_OUTCOME_UPDATED ||
		applied->outcome == CQRS_OUTCOME_DELETED;
}

/*
 * With the row that is there.  Sets the outcome if the message changes
 * nothing, else what is noted besides the outcome: gap, downgrade.
 */
static void
compare_revisions(Work *work)
{
	const CqrsMapping *mapping = &work->content.plan->mapping;
	const CqrsMappedColumn *column = &mapping->columns[mapping->revision];
	CqrsApplied *applied = work->applied;
	bool		isnull;
	Datum		value = cqrs_stored_row_get_old(work->leaf, column->attnum, &isnull);
	int64		old = isnull ? -1 : cqrs_content_integer(column->type, value);

	if (work->content.message->signal == CQRS_SIGNAL_SYNC)
		applied->downgrade = work->content.revision < old;
	else if (work->content.revision <= old && !work->whatever_revision)
		applied->outcome = work->content.revision == old ? CQRS_OUTCOME_DUPLICATE :
			CQRS_OUTCOME_OUTDATED;
	else
		applied->gap = old >= 0 && work->content.revision > old + 1;
}

/*
 * Make the change that the outcome names.  With soft_delete, a DELETE marks
 * the row.
 */
static void
write_row(Work *work)
{
	switch (work->applied->outcome)
	{
		case CQRS_OUTCOME_INSERTED:
			insert_row(work);
			break;
		case CQRS_OUTCOME_UPDATED:
			update_row(work);
			break;
		default:
			if (work->content.plan->mapping.soft_delete != InvalidAttrNumber)
				mark_row(work);
			else
				cqrs_stored_row_delete(work->table, work->leaf);
			break;
	}
}

/* A column whose key is missing gets its default. */
static void
insert_row(Work *work)
{
	const CqrsMapping *mapping = &work->content.plan->mapping;
	TupleDesc	desc = RelationGetDescr(work->table->rel);
	bool	   *has_value = palloc0(sizeof(bool) * desc->natts);

	cqrs_stored_row_begin_new(work->leaf);
	for (int i = 0; i < mapping->ncolumns; i++)
		has_value[mapping->columns[i].attnum - 1] =
			work->content.members[i] != NULL;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		isnull;
		Datum		value;

		if (has_value[i] || att->attisdropped || att->attgenerated)
			continue;
		value = cqrs_table_default(work->table, i + 1, &isnull);
		cqrs_stored_row_set(work->leaf, i + 1, value, isnull);
	}
	set_columns(work);
	set_mark(work, false);
	cqrs_stored_row_insert(work->table, work->leaf);
}

/* A column whose key is missing stays as it is. */
static void
update_row(Work *work)
{
	cqrs_stored_row_begin_update(work->leaf);
	set_columns(work);
	set_mark(work, false);
	cqrs_stored_row_update(work->table, work->leaf);
}

/* Set the columns whose keys the message has in the row that was begun. */
static void
set_columns(Work *work)
{
	const CqrsMapping *mapping = &work->content.plan->mapping;

	for (int i = 0; i < mapping->ncolumns; i++)
	{
		bool		isnull;
		Datum		value;

		if (cqrs_content_read(&work->content, i, &value, &isnull))
			cqrs_stored_row_set(work->leaf, mapping->columns[i].attnum, value,
								isnull);
	}
}

/* Set the column of soft_delete: a boolean, or a time. */
static void
set_mark(Work *work, bool deleted)
{
	AttrNumber	mark = work->content.plan->mapping.soft_delete;

	if (mark == InvalidAttrNumber)
		return;
	if (TupleDescAttr(RelationGetDescr(work->table->rel),
					  mark - 1)->atttypid == BOOLOID)
		cqrs_stored_row_set(work->leaf, mark, BoolGetDatum(deleted), false);
	else
		cqrs_stored_row_set(work->leaf, mark,
							TimestampTzGetDatum(GetCurrentTransactionStartTimestamp()),
							!deleted);
}

/* A DELETE with soft_delete: the row stays, with the revision of the DELETE. */
static void
mark_row(Work *work)
{
	cqrs_stored_row_begin_update(work->leaf);
	set_columns(work);
	set_mark(work, true);
	cqrs_stored_row_update(work->table, work->leaf);
}

const char *
cqrs_apply_outcome_name(CqrsOutcome outcome)
{
	switch (outcome)
	{
		case CQRS_OUTCOME_INSERTED:
			return "inserted";
		case CQRS_OUTCOME_UPDATED:
			return "updated";
		case CQRS_OUTCOME_DELETED:
			return "deleted";
		case CQRS_OUTCOME_DUPLICATE:
			return "duplicate";
		case CQRS_OUTCOME_OUTDATED:
			return "outdated";
		case CQRS_OUTCOME_ABSENT:
			return "absent";
		case CQRS_OUTCOME_IGNORED:
			return "ignored";
		case CQRS_OUTCOME_HANDLED:
			return "handled";
		case CQRS_OUTCOME_REPEATED:
			return "repeated";
	}
	elog(ERROR, "unknown outcome %d", outcome);
}
