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
 * With soft_delete a deleted row is still there, marked.  For these rules it
 * is unknown: what comes next under its key starts at revision 0 again.
 *
 * Rights.  Messages are applied as the owner of the table, with
 * SECURITY_LOCAL_USERID_CHANGE: what the owner's triggers and functions do,
 * they do with the owner's rights, and cannot take others.  It is not a
 * restricted operation, which refuses deferred constraints.  A caller that
 * commits has to do so as the owner, since deferred triggers run then.
 *
 * Memory.  The values of a message are in "cqrs applied message", reset by the
 * next one; a message that is applied from within another one, by a handler
 * or a trigger, has a context of its own.
 *
 * Errors leave as they are raised, with a context that names the message.
 * Nothing here has to be undone after them but what the end of the
 * (sub)transaction undoes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "apply/apply.h"
#include "apply/handle.h"
#include "apply/incoming.h"
#include "apply/plan.h"
#include "apply/stored_row.h"
#include "base/compat.h"

/* A message while it is applied. */
typedef struct Work
{
	CqrsApplier *applier;
	CqrsPlan   *plan;
	const CqrsIncoming *message;
	bool		whatever_revision;
	bool		calls_handler;
	CqrsApplied *applied;
	/* Which member of instance_data each column is in, or NULL. */
	const CqrsJsonValue **members;
	const char *key;			/* what is being read, for errors */
	/* Columns that the rules need: of mapping.keys[], and two more. */
	Datum		keys[INDEX_MAX_KEYS];
	int64		revision;
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
static void map_members(Work *work);
static int	find_column(CqrsPlan *plan, int member, const CqrsJsonValue *key);
static void read_keys(Work *work);
static void read_deleted_keys(Work *work);
static const CqrsJsonValue *required_member(Work *work, const char *key);
pg_noreturn static void missing_key(const char *key);
static Datum read_value(Work *work, int column, const CqrsJsonValue *json,
						bool *isnull);
static Datum read_not_null(Work *work, int column, const CqrsJsonValue *json);
pg_noreturn static void null_key(Work *work, int column);
static int64 integer_of(Oid type, Datum value);
static bool is_marked(Work *work);
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
	Assert(!rights_changed);
	GetUserIdAndSecContext(&rights_user, &rights_context);
	rights_changed = true;
	SetUserIdAndSecContext(owner, rights_context |
						   SECURITY_LOCAL_USERID_CHANGE);
	cqrs_apply_pin_settings(GUC_ACTION_LOCAL);
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
cqrs_apply_pin_settings(GucAction action)
{
	static const struct
	{
		const char *name;
		const char *value;
	}			settings[] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"TimeZone", "UTC"},
		{"DateStyle", "ISO, MDY"},
		{"IntervalStyle", "postgres"},
		{"array_nulls", "on"},
		{"xmloption", "content"},
		{"session_replication_role", "origin"},
		{"row_security", "on"},
	};

	for (int i = 0; i < lengthof(settings); i++)
	{
		const char *value = GetConfigOption(settings[i].name, false, false);

		if (strcmp(value, settings[i].value) != 0)
			(void) set_config_option(settings[i].name, settings[i].value,
									 PGC_SUSET, PGC_S_SESSION, action, true,
									 ERROR, false);
	}
}

void
cqrs_apply_message(CqrsApplier *applier, const CqrsReplica *replica,
				   const CqrsIncoming *message, bool whatever_revision,
				   CqrsApplied *applied)
{
	Work		work = {0};

	work.applier = applier;
	work.message = message;
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
	work.message = message;
	work.applied = applied;
	apply_in_context(&work, replica);
}

/* With snapshot, memory and the current message; afterwards as before. */
static void
apply_in_context(Work *work, const CqrsReplica *replica)
{
	const CqrsIncoming *outer = cqrs_incoming_current;
	CqrsApplier *applier = work->applier;
	MemoryContext caller = CurrentMemoryContext;

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
	cqrs_incoming_current = work->message;
	PG_TRY();
	{
		work->plan = cqrs_plan_get(applier, replica);
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

static void
apply(Work *work)
{
	ErrorContextCallback callback;

	callback.callback = error_context;
	callback.arg = work;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	if (work->message->signal == CQRS_SYNC && work->plan->only_direct_syncs &&
		!work->message->direct)
		work->applied->outcome = CQRS_OUTCOME_IGNORED;
	else if (OidIsValid(work->plan->relid))
		apply_to_table(work);
	else
		call_handler(work);

	error_context_stack = callback.previous;
}

static void
call_handler(Work *work)
{
	cqrs_handle_message(work->plan, work->message);
	work->applied->outcome = CQRS_OUTCOME_HANDLED;
}

static void
error_context(void *arg)
{
	Work	   *work = arg;

	if (work->key != NULL)
		errcontext("key \"%s\" of %s of replica \"%s\", instance_pk %s",
				   work->key, cqrs_signal_name(work->message->signal),
				   work->message->cqrs_id, work->message->instance_pk);
	else
		errcontext("%s of replica \"%s\", instance_pk %s",
				   cqrs_signal_name(work->message->signal),
				   work->message->cqrs_id, work->message->instance_pk);
}

static void
apply_to_table(Work *work)
{
	bool		is_delete = work->message->signal == CQRS_DELETE;

	map_members(work);
	if (is_delete)
		read_deleted_keys(work);
	else
		read_keys(work);
	work->table = cqrs_plan_open(work->applier, work->plan);
	work->leaf = cqrs_plan_leaf(work->plan, work->table, work->keys, is_delete);
	work->found = work->leaf != NULL &&
		cqrs_stored_row_find(work->leaf, work->keys,
							 is_delete ? LockTupleExclusive :
							 LockTupleNoKeyExclusive);
	if (!decide(work))
		cqrs_plan_close(work->plan, work->table);
	else if (work->calls_handler && work->plan->handler != NULL)
	{
		cqrs_plan_close(work->plan, work->table);
		call_handler(work);
	}
	else
	{
		write_row(work);
		cqrs_plan_close(work->plan, work->table);
	}
}

/* Find out which members of instance_data are columns. */
static void
map_members(Work *work)
{
	CqrsPlan   *plan = work->plan;
	const CqrsJsonMembers *data = &work->message->data;

	work->members = palloc0(sizeof(CqrsJsonValue *) * plan->mapping.ncolumns);
	if (work->message->signal == CQRS_DELETE)
		return;
	if (plan->nexpected < data->nmembers)
	{
		plan->expected = plan->expected == NULL ?
			MemoryContextAlloc(plan->context, sizeof(int) * data->nmembers) :
			repalloc(plan->expected, sizeof(int) * data->nmembers);
		for (int i = plan->nexpected; i < data->nmembers; i++)
			plan->expected[i] = Min(i, plan->mapping.ncolumns - 1);
		plan->nexpected = data->nmembers;
	}
	for (int i = 0; i < data->nmembers; i++)
	{
		int			column = find_column(plan, i, &data->members[i].key);

		if (column < 0)
			work->applied->unknown_keys = true;
		else
			work->members[column] = &data->members[i].value;
	}
}

/* The column of a key, or -1.  Most messages have their keys in one order. */
static int
find_column(CqrsPlan *plan, int member, const CqrsJsonValue *key)
{
	const CqrsMappedColumn *columns = plan->mapping.columns;
	int			expected = plan->expected[member];

	if (cqrs_json_scan_is_key(key, columns[expected].key,
							  plan->key_lengths[expected]))
		return expected;
	for (int i = 0; i < plan->mapping.ncolumns; i++)
	{
		if (cqrs_json_scan_is_key(key, columns[i].key, plan->key_lengths[i]))
		{
			plan->expected[member] = i;
			return i;
		}
	}
	return -1;
}

/* The key and the revision of a SAVE or a SYNC. */
static void
read_keys(Work *work)
{
	const CqrsMapping *mapping = &work->plan->mapping;

	for (int i = 0; i < mapping->ncolumns; i++)
	{
		if (work->members[i] == NULL &&
			(mapping->columns[i].required || i == mapping->revision ||
			 i == mapping->updated))
			missing_key(mapping->columns[i].key);
	}
	for (int i = 0; i < mapping->nkeys; i++)
	{
		int			column = mapping->keys[i];

		if (work->members[column] == NULL)
			missing_key(mapping->columns[column].key);
		work->keys[i] = read_not_null(work, column, work->members[column]);
	}
	work->revision =
		integer_of(mapping->columns[mapping->revision].type,
				   read_not_null(work, mapping->revision,
								 work->members[mapping->revision]));
}

/*
 * The same of a DELETE.  Its key is called "id", whatever the column is called;
 * of several columns it is an array.
 */
static void
read_deleted_keys(Work *work)
{
	const CqrsMapping *mapping = &work->plan->mapping;
	const CqrsJsonValue *id = required_member(work, "id");
	const CqrsJsonValue *revision = required_member(work, "cqrs_revision");
	CqrsJsonMembers elements = {0};

	work->members[mapping->revision] = revision;
	work->members[mapping->updated] = required_member(work, "cqrs_updated");
	work->revision =
		integer_of(mapping->columns[mapping->revision].type,
				   read_not_null(work, mapping->revision, revision));
	work->key = "id";
	if (mapping->nkeys > 1)
	{
		if (id->kind == CQRS_JSON_ARRAY)
			cqrs_json_scan_array(id, &elements);
		if (elements.nmembers != mapping->nkeys)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
					 errmsg("key of a message is not an array of %d values",
							mapping->nkeys)));
	}
	for (int i = 0; i < mapping->nkeys; i++)
		work->keys[i] = read_not_null(work, mapping->keys[i],
									  mapping->nkeys == 1 ? id :
									  &elements.members[i].value);
}

static const CqrsJsonValue *
required_member(Work *work, const char *key)
{
	const CqrsJsonValue *json = cqrs_json_scan_find(&work->message->data, key);

	if (json == NULL)
		missing_key(key);
	return json;
}

static void
missing_key(const char *key)
{
	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA_FOUND),
			 errmsg("instance_data has no key \"%s\"", key)));
}

static Datum
read_value(Work *work, int column, const CqrsJsonValue *json, bool *isnull)
{
	Datum		value;

	work->key = work->plan->mapping.columns[column].key;
	value = cqrs_value_in_read(work->plan->inputs[column], json, isnull);
	work->key = NULL;
	return value;
}

static Datum
read_not_null(Work *work, int column, const CqrsJsonValue *json)
{
	bool		isnull;
	Datum		value = read_value(work, column, json, &isnull);

	if (isnull)
		null_key(work, column);
	return value;
}

static void
null_key(Work *work, int column)
{
	ereport(ERROR,
			(errcode(ERRCODE_NOT_NULL_VIOLATION),
			 errmsg("null value in key \"%s\" of instance_data",
					work->plan->mapping.columns[column].key)));
}

static int64
integer_of(Oid type, Datum value)
{
	switch (type)
	{
		case INT2OID:
			return DatumGetInt16(value);
		case INT4OID:
			return DatumGetInt32(value);
		default:
			return DatumGetInt64(value);
	}
}

/* Whether the row that was found is marked as deleted. */
static bool
is_marked(Work *work)
{
	AttrNumber	mark = work->plan->mapping.soft_delete;
	bool		isnull;
	Datum		value;

	if (mark == InvalidAttrNumber)
		return false;
	value = cqrs_stored_row_get_old(work->leaf, mark, &isnull);
	return !isnull &&
		(TupleDescAttr(RelationGetDescr(work->table->rel),
					   mark - 1)->atttypid != BOOLOID || DatumGetBool(value));
}

/* Whether the message changes the row; and what the outcome is. */
static bool
decide(Work *work)
{
	CqrsApplied *applied = work->applied;
	bool		alive = work->found && !is_marked(work);

	if (work->message->signal == CQRS_DELETE)
		applied->outcome = alive ? CQRS_OUTCOME_DELETED : CQRS_OUTCOME_ABSENT;
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

static void
compare_revisions(Work *work)
{
	const CqrsMapping *mapping = &work->plan->mapping;
	const CqrsMappedColumn *column = &mapping->columns[mapping->revision];
	CqrsApplied *applied = work->applied;
	bool		isnull;
	Datum		value = cqrs_stored_row_get_old(work->leaf, column->attnum, &isnull);
	int64		old = isnull ? -1 : integer_of(column->type, value);

	if (work->message->signal == CQRS_SYNC)
		applied->downgrade = work->revision < old;
	else if (work->revision <= old && !work->whatever_revision)
		applied->outcome = work->revision == old ? CQRS_OUTCOME_DUPLICATE :
			CQRS_OUTCOME_OUTDATED;
	else
		applied->gap = old >= 0 && work->revision > old + 1;
}

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
			if (work->plan->mapping.soft_delete != InvalidAttrNumber)
				mark_row(work);
			else
				cqrs_stored_row_delete(work->table, work->leaf);
			break;
	}
}

static void
insert_row(Work *work)
{
	const CqrsMapping *mapping = &work->plan->mapping;
	TupleDesc	desc = RelationGetDescr(work->table->rel);
	bool	   *has_value = palloc0(sizeof(bool) * desc->natts);

	cqrs_stored_row_begin_new(work->leaf);
	for (int i = 0; i < mapping->ncolumns; i++)
		has_value[mapping->columns[i].attnum - 1] = work->members[i] != NULL;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		isnull;
		Datum		value;

		if (has_value[i] || att->attisdropped || att->attgenerated)
			continue;
		value = cqrs_plan_default(work->table, i + 1, &isnull);
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

static void
set_columns(Work *work)
{
	const CqrsMapping *mapping = &work->plan->mapping;

	for (int i = 0; i < mapping->ncolumns; i++)
	{
		bool		isnull;
		Datum		value;

		if (work->members[i] == NULL)
			continue;
		value = read_value(work, i, work->members[i], &isnull);
		if (isnull && i == mapping->updated)
			null_key(work, i);
		cqrs_stored_row_set(work->leaf, mapping->columns[i].attnum, value, isnull);
	}
}

/* Set the column of soft_delete: a boolean, or a time. */
static void
set_mark(Work *work, bool deleted)
{
	AttrNumber	mark = work->plan->mapping.soft_delete;

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
