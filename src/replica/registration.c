/*-------------------------------------------------------------------------
 *
 * registration.c
 *	  cqrs_register_replica, cqrs_alter_replica, cqrs_unregister_replica.
 *
 * All run with the rights of the caller, who has to own the table, or, for a
 * replica without one, to have the rights of the owner of the handler.  A
 * replica shows its owner any master's data, so registering and altering need
 * EXECUTE on the functions as well, which PUBLIC does not have.
 *
 * The table is locked against writers until the end of the transaction, so a
 * definition holds for whole transactions of the consumer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/command.h"
#include "base/compat.h"
#include "base/objects.h"
#include "ddl/facts.h"
#include "define/function.h"
#include "define/name.h"
#include "define/rights.h"
#include "replica/fit.h"
#include "replica/handler.h"
#include "replica/mapping.h"
#include "replica/registration.h"
#include "replica/replica.h"

PG_FUNCTION_INFO_V1(cqrs_register_replica);
PG_FUNCTION_INFO_V1(cqrs_alter_replica);
PG_FUNCTION_INFO_V1(cqrs_unregister_replica);
PG_FUNCTION_INFO_V1(cqrs_sql_check_replica);

static void lock_table(Oid relid);
static void check_unused(const CqrsReplicaRow *row);
static void check_owner(const CqrsReplicaRow *row);
static void check_without_table(const CqrsReplicaRow *row);
static void check_function(const char *name, const CqrsFunctionKind *kind,
						   Oid owner);
static List *add_foreign(List *list, const CqrsReplicaRow *row,
						 CqrsReplicaOption option,
						 const CqrsFunctionKind *kind, Oid owner);
static void add_columns(Oid relid);
static void add_column(StringInfo add, StringInfo rest, Oid relid,
					   const char *name, const char *type, const char *value);
static void raise_warnings(const CqrsReplicaRow *row);
static char *id_argument(FunctionCallInfo fcinfo);
static CqrsReplicaRow *read_locked(const char *cqrs_id);
static CqrsReplicaRow *read_existing(const char *cqrs_id);

/*
 * cqrs_register_replica(relation regclass, cqrs_id text, ...) RETURNS text; the
 * options follow in the order of CqrsReplicaOption.
 */
Datum
cqrs_register_replica(PG_FUNCTION_ARGS)
{
	CqrsReplicaRow row = {0};

	PreventCommandIfReadOnly("cqrs_register_replica()");
	if (!PG_ARGISNULL(0))
	{
		row.relid = PG_GETARG_OID(0);
		lock_table(row.relid);
	}
	if (!PG_ARGISNULL(1))
		row.cqrs_id = text_to_cstring(PG_GETARG_TEXT_PP(1));
	else if (OidIsValid(row.relid))
		row.cqrs_id = get_rel_name(row.relid);
	else
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("cqrs_id must not be null without a relation"),
				 errdetail("The argument names the master that the replica follows."),
				 errhint("Name the master, as in cqrs_register_replica(NULL, 'author', handler => 'f').")));
	for (int i = 0; i < CQRS_REPLICA_NOPTIONS; i++)
		cqrs_option_set(&cqrs_replica_options, row.options, i,
						fcinfo->args[2 + i]);

	cqrs_name_check_id(row.cqrs_id);
	cqrs_rights_check_exchange(NULL, cqrs_replica_text(&row, CQRS_REPLICA_EXCHANGE));
	check_unused(&row);
	if (OidIsValid(row.relid))
	{
		cqrs_fit_check(cqrs_facts_table(row.relid));
		add_columns(row.relid);
	}
	cqrs_registration_check(&row);
	check_owner(&row);
	cqrs_replica_insert(&row);
	raise_warnings(&row);
	cqrs_function_warn_foreign(cqrs_registration_foreign(list_make1(&row)), NIL);
	PG_RETURN_TEXT_P(cstring_to_text(row.cqrs_id));
}

/* cqrs_alter_replica(cqrs_id text, options jsonb) RETURNS void */
Datum
cqrs_alter_replica(PG_FUNCTION_ARGS)
{
	char	   *cqrs_id = id_argument(fcinfo);
	CqrsReplicaRow *row;
	char	   *exchange;
	List	   *foreign;

	PreventCommandIfReadOnly("cqrs_alter_replica()");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("options must not be null"),
				 errdetail("The options say what to change about the replica."),
				 errhint("Name options with their values, as in {\"max_retries\": 5}.")));
	row = read_locked(cqrs_id);
	exchange = cqrs_replica_text(row, CQRS_REPLICA_EXCHANGE);
	foreign = cqrs_registration_foreign(list_make1(row));
	cqrs_option_set_json(&cqrs_replica_options, row->options,
						 PG_GETARG_JSONB_P(1));
	cqrs_rights_check_exchange(exchange, cqrs_replica_text(row, CQRS_REPLICA_EXCHANGE));
	cqrs_registration_check(row);
	/* The owner may be another one, by another handler. */
	check_owner(row);
	cqrs_replica_update(row);
	cqrs_function_warn_foreign(cqrs_registration_foreign(list_make1(row)),
							   foreign);
	PG_RETURN_VOID();
}

/* cqrs_unregister_replica(cqrs_id text) RETURNS void */
Datum
cqrs_unregister_replica(PG_FUNCTION_ARGS)
{
	char	   *cqrs_id = id_argument(fcinfo);

	PreventCommandIfReadOnly("cqrs_unregister_replica()");
	cqrs_replica_delete(read_locked(cqrs_id)->cqrs_id);
	PG_RETURN_VOID();
}

/* Lock a table and its partitions against writers; the caller owns it. */
static void
lock_table(Oid relid)
{
	Relation	rel;

	/* Before the lock, so that only the owner can make writers wait. */
	cqrs_rights_check_table(relid);
	rel = table_open(relid, ShareRowExclusiveLock);
	cqrs_rights_check_table(relid);
	table_close(rel, NoLock);
	(void) find_all_inheritors(relid, ShareRowExclusiveLock, NULL);
}

/* Raise an error if the name is that of a replica, or the table is one's. */
static void
check_unused(const CqrsReplicaRow *row)
{
	CqrsReplicaRow *existing = cqrs_replica_read(row->cqrs_id);
	char	   *other;

	if (existing != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("replica \"%s\" already exists", row->cqrs_id),
				 OidIsValid(existing->relid) ?
				 errdetail("The existing replica is that of table \"%s\".",
						   get_rel_name(existing->relid)) :
				 errdetail("The existing replica has no table."),
				 errhint("Choose another cqrs_id, or use cqrs_alter_replica() to change the replica.")));
	if (!OidIsValid(row->relid))
		return;
	other = cqrs_objects_replica_of(row->relid);
	if (other != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("table \"%s\" has a replica already",
						get_rel_name(row->relid)),
				 errdetail("Replica \"%s\" writes to the table, and a row follows one master.",
						   other),
				 errhint("Use another table, or cqrs_unregister_replica() to end the replica.")));
}

/* The caller must have the rights with which messages are applied. */
static void
check_owner(const CqrsReplicaRow *row)
{
	Oid			owner;

	if (OidIsValid(row->relid))
	{
		cqrs_rights_check_table(row->relid);
		return;
	}
	owner = cqrs_replica_owner(row);
	if (OidIsValid(owner) ? has_privs_of_role(GetUserId(), owner) : superuser())
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("must be owner of the handler of replica \"%s\"",
					row->cqrs_id),
			 errdetail("The handler runs with the rights of its owner.")));
}

void
cqrs_registration_check(const CqrsReplicaRow *row)
{
	Oid			owner;

	if (OidIsValid(row->relid))
	{
		CqrsTableFacts *facts = cqrs_facts_table(row->relid);
		CqrsMapping mapping;
		ListCell   *lc;

		if (facts == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation with OID %u does not exist", row->relid),
					 errdetail("The relation was the table of replica \"%s\".",
							   row->cqrs_id)));
		cqrs_fit_check(facts);
		foreach(lc, find_all_inheritors(row->relid, NoLock, NULL))
			cqrs_fit_check_partition(cqrs_facts_table(lfirst_oid(lc)));
		cqrs_mapping_bind_facts(facts, row, &mapping);
	}
	else
		check_without_table(row);

	owner = cqrs_replica_owner(row);
	check_function(cqrs_replica_text(row, CQRS_REPLICA_HANDLER),
				   cqrs_handler_kind(), owner);
	check_function(cqrs_replica_text(row, CQRS_REPLICA_RETRY),
				   cqrs_handler_retry_kind(), owner);
}

/* Raise an error unless there is a handler, and no option about columns. */
static void
check_without_table(const CqrsReplicaRow *row)
{
	static const CqrsReplicaOption of_table[] = {
		CQRS_REPLICA_FIELDS, CQRS_REPLICA_FIELD_MAP, CQRS_REPLICA_SOFT_DELETE
	};

	if (row->options[CQRS_REPLICA_HANDLER].isnull)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("replica \"%s\" has neither a table nor a handler",
						row->cqrs_id),
				 errdetail("Nothing would be done with its messages."),
				 errhint("Name a table by \"relation\", or a function by \"handler\".")));
	for (int i = 0; i < lengthof(of_table); i++)
	{
		if (!row->options[of_table[i]].isnull)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("replica \"%s\" has no table for option \"%s\"",
							row->cqrs_id,
							cqrs_replica_options.infos[of_table[i]].name),
					 errdetail("The option names columns of a table."),
					 errhint("Leave the option out, or name a table by \"relation\".")));
	}
}

List *
cqrs_registration_foreign(List *rows)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, rows)
	{
		const CqrsReplicaRow *row = lfirst(lc);
		Oid			owner = cqrs_replica_owner(row);

		result = add_foreign(result, row, CQRS_REPLICA_HANDLER,
							 cqrs_handler_kind(), owner);
		result = add_foreign(result, row, CQRS_REPLICA_RETRY,
							 cqrs_handler_retry_kind(), owner);
	}
	return result;
}

static List *
add_foreign(List *list, const CqrsReplicaRow *row, CqrsReplicaOption option,
			const CqrsFunctionKind *kind, Oid owner)
{
	const char *name = cqrs_replica_text(row, option);

	if (name == NULL)
		return list;
	return cqrs_function_add_foreign(list, "replica", row->cqrs_id, kind->role,
									 cqrs_function_oid(name, kind), owner);
}

/*
 * Raise an error unless the owner may call a function of that name and kind.
 * NULL is no name, and no error.
 */
static void
check_function(const char *name, const CqrsFunctionKind *kind, Oid owner)
{
	CqrsFunction function;

	if (name != NULL)
		(void) cqrs_function_find(&function, name, kind, owner);
}

/*
 * Add cqrs_revision and cqrs_updated, unless the table has them.  Existing
 * rows get values below those of any message.  The columns have no default for
 * new rows: cqrs_register() would keep one, and a master counts from 0.
 */
static void
add_columns(Oid relid)
{
	StringInfoData add;
	StringInfoData rest;

	initStringInfo(&add);
	initStringInfo(&rest);
	add_column(&add, &rest, relid, "cqrs_revision", "pg_catalog.int4", "-1");
	add_column(&add, &rest, relid, "cqrs_updated", "pg_catalog.timestamptz",
			   "'epoch'");
	if (add.len == 0)
		return;
	cqrs_command_run(add.data);
	cqrs_command_run(rest.data);
	CommandCounterIncrement();
}

/*
 * Unless the table has a column of that name, add it to two commands, which
 * are empty at first: "add" adds the column with "value" in existing rows,
 * "rest" drops that default.  Type and value are SQL.
 */
static void
add_column(StringInfo add, StringInfo rest, Oid relid, const char *name,
		   const char *type, const char *value)
{
	if (get_attnum(relid, name) > 0)
		return;
	if (add->len == 0)
	{
		char	   *table = cqrs_command_relation(relid);

		appendStringInfo(add, "ALTER TABLE %s", table);
		appendStringInfo(rest, "ALTER TABLE %s", table);
	}
	else
	{
		appendStringInfoChar(add, ',');
		appendStringInfoChar(rest, ',');
	}
	appendStringInfo(add, " ADD COLUMN %s %s NOT NULL DEFAULT %s", name, type,
					 value);
	appendStringInfo(rest, " ALTER COLUMN %s DROP DEFAULT", name);
}

/* Warn of what may make messages fail later. */
static void
raise_warnings(const CqrsReplicaRow *row)
{
	ListCell   *lc;

	foreach(lc, cqrs_fit_warnings(row))
	{
		const CqrsFitWarning *warning = lfirst(lc);

		ereport(WARNING,
				(errmsg_internal("%s", warning->message),
				 errdetail_internal("%s", warning->detail),
				 errhint("%s", warning->hint)));
	}
}

/* The cqrs_id that is the first argument of a function that is not STRICT. */
static char *
id_argument(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("cqrs_id must not be null"),
				 errdetail("The argument names the replica."),
				 errhint("See cqrs.replica for the replicas that exist.")));
	return text_to_cstring(PG_GETARG_TEXT_PP(0));
}

/*
 * Lock the table of a replica against writers, check that the caller owns the
 * replica, and read it.
 */
static CqrsReplicaRow *
read_locked(const char *cqrs_id)
{
	CqrsReplicaRow *row = read_existing(cqrs_id);
	Oid			relid = row->relid;

	if (!OidIsValid(relid))
	{
		check_owner(row);
		return row;
	}
	lock_table(relid);
	row = read_existing(cqrs_id);
	if (row->relid != relid)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("replica \"%s\" was changed concurrently", cqrs_id),
				 errdetail("The replica belongs to another table now."),
				 errhint("Call the function again.")));
	return row;
}

/* The replica of that name, or an error. */
static CqrsReplicaRow *
read_existing(const char *cqrs_id)
{
	CqrsReplicaRow *row = cqrs_replica_read(cqrs_id);

	if (row == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("replica \"%s\" does not exist", cqrs_id),
				 errdetail("No table of this database has a replica of that name."),
				 errhint("Use cqrs_register_replica() to make a table a replica; see cqrs.replica for the replicas that exist.")));
	return row;
}

/*
 * cqrs.check_replica(cqrs_id text, OUT warning text, OUT remedy text) RETURNS
 * SETOF record.  Raises the error with which all messages of the replica fail.
 */
Datum
cqrs_sql_check_replica(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	const CqrsFitWarning *warning;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (SRF_IS_FIRSTCALL())
	{
		CqrsReplicaRow *row = read_existing(id_argument(fcinfo));
		MemoryContext caller;

		cqrs_registration_check(row);
		context = SRF_FIRSTCALL_INIT();
		caller = MemoryContextSwitchTo(context->multi_call_memory_ctx);
		context->user_fctx = cqrs_fit_warnings(row);
		if (get_call_result_type(fcinfo, NULL,
								 &context->tuple_desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type of cqrs.check_replica() must be a row type");
		MemoryContextSwitchTo(caller);
	}
	context = SRF_PERCALL_SETUP();
	if (context->call_cntr >= list_length(context->user_fctx))
		SRF_RETURN_DONE(context);
	warning = list_nth(context->user_fctx, context->call_cntr);
	values[0] = CStringGetTextDatum(warning->message);
	values[1] = CStringGetTextDatum(warning->hint);
	SRF_RETURN_NEXT(context,
					HeapTupleGetDatum(heap_form_tuple(context->tuple_desc,
													  values, nulls)));
}
