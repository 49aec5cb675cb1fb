/*-------------------------------------------------------------------------
 *
 * register.c
 *	  cqrs_register, cqrs_alter, cqrs_unregister.
 *
 * All run with the rights of the caller, who has to own the table.  DDL on the
 * table goes through SPI as the caller; the row in cqrs.master is written
 * directly.  The table is locked against writers until the end of the
 * transaction, so a definition holds for whole transactions: those that have
 * written to the table before see the old one, all others the new one.  The
 * invalidation of the table's relcache entry makes backends read it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "capture.h"
#include "catalog.h"
#include "changeset.h"
#include "compat.h"
#include "guc.h"
#include "hook.h"
#include "master.h"
#include "shared.h"

/*
 * AMQP 0-9-1: a routing key is a short string of 255 bytes, and the one of a
 * SYNC to one queue is "cqrs.<queue>.<cqrs_id>".
 */
#define CQRS_ID_BYTES	120

PG_FUNCTION_INFO_V1(cqrs_register);
PG_FUNCTION_INFO_V1(cqrs_unregister);
PG_FUNCTION_INFO_V1(cqrs_alter);

static void check_table(Relation rel);
static void check_owner(Oid relid);
static void check_cqrs_id(const char *cqrs_id);
static void add_missing_columns(Oid relid);
static void check_definition(Oid relid, const CqrsMasterRow *row);
static void create_triggers(Oid relid);
static void drop_triggers(Oid relid);
static void execute(const char *command);
static char *qualified_name(Oid relid);
static void warn_if_unconfigured(void);
static Relation lock_master(const char *cqrs_id, CqrsMasterRow **row);
static void refuse_own_changes(Relation rel);
static void apply_option(CqrsMasterRow *row, const char *name,
						 JsonbValue *value);
static List *option_names(const char *name, JsonbValue *value);
static char *option_string(const char *name, JsonbValue *value);
static void option_type_error(const char *name, const char *expected);

/*
 * cqrs_register(relation regclass, cqrs_id text, fields text[],
 *				 tracked_fields text[], field_map jsonb, meta regproc,
 *				 produce boolean) RETURNS text
 */
Datum
cqrs_register(PG_FUNCTION_ARGS)
{
	CqrsMasterRow row = {0};
	Oid			relid;
	Relation	rel;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("relation must not be null")));
	relid = PG_GETARG_OID(0);

	/* Before the lock, so that only the owner can make writers wait. */
	check_owner(relid);
	rel = table_open(relid, ShareRowExclusiveLock);
	check_table(rel);
	check_owner(relid);

	row.relid = relid;
	row.cqrs_id = PG_ARGISNULL(1) ? pstrdup(RelationGetRelationName(rel)) :
		text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (!PG_ARGISNULL(2))
	{
		row.fields = cqrs_master_text_list(PG_GETARG_DATUM(2));
		if (row.fields == NIL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"fields\" must not be empty"),
					 errhint("Use NULL for all columns.")));
	}
	row.tracks = !PG_ARGISNULL(3);
	if (row.tracks)
		row.tracked_fields = cqrs_master_text_list(PG_GETARG_DATUM(3));
	if (!PG_ARGISNULL(4))
		row.field_map = PG_GETARG_DATUM(4);
	if (!PG_ARGISNULL(5))
		row.meta = cqrs_hook_qualified_name(PG_GETARG_OID(5));
	row.produce = PG_ARGISNULL(6) || PG_GETARG_BOOL(6);

	check_cqrs_id(row.cqrs_id);
	if (cqrs_master_read(row.cqrs_id, true) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("master \"%s\" already exists", row.cqrs_id),
				 errhint("Choose another cqrs_id, or use cqrs_alter() to change the master.")));
	table_close(rel, NoLock);

	add_missing_columns(relid);
	check_definition(relid, &row);
	create_triggers(relid);
	cqrs_master_insert(&row);
	CacheInvalidateRelcacheByRelid(relid);
	CommandCounterIncrement();

	rel = table_open(relid, NoLock);
	cqrs_capture_begin_late(rel);
	table_close(rel, NoLock);
	warn_if_unconfigured();

	PG_RETURN_TEXT_P(cstring_to_text(row.cqrs_id));
}

/* cqrs_unregister(cqrs_id text) RETURNS void */
Datum
cqrs_unregister(PG_FUNCTION_ARGS)
{
	char	   *cqrs_id = text_to_cstring(PG_GETARG_TEXT_PP(0));
	CqrsMasterRow *row;
	Relation	rel = lock_master(cqrs_id, &row);
	Oid			relid = RelationGetRelid(rel);

	refuse_own_changes(rel);
	table_close(rel, NoLock);
	cqrs_master_delete(cqrs_id);
	CacheInvalidateRelcacheByRelid(relid);
	CommandCounterIncrement();
	if (cqrs_master_read_all(relid) == NIL)
		drop_triggers(relid);
	PG_RETURN_VOID();
}

/* cqrs_alter(cqrs_id text, options jsonb) RETURNS void */
Datum
cqrs_alter(PG_FUNCTION_ARGS)
{
	char	   *cqrs_id = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Jsonb	   *options = PG_GETARG_JSONB_P(1);
	CqrsMasterRow *row;
	Relation	rel = lock_master(cqrs_id, &row);
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *name = NULL;

	if (!JB_ROOT_IS_OBJECT(options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object"),
				 errhint("For example {\"tracked_fields\": [\"name\"], \"meta\": null}.")));

	it = JsonbIteratorInit(&options->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE)
			apply_option(row, name, &value);
	}

	refuse_own_changes(rel);
	check_definition(RelationGetRelid(rel), row);
	cqrs_master_update(row);
	cqrs_capture_begin_late(rel);
	CacheInvalidateRelcache(rel);
	table_close(rel, NoLock);
	PG_RETURN_VOID();
}

/* The caller has the relation open, and nothing has been changed yet. */
static void
check_table(Relation rel)
{
	const char *name = RelationGetRelationName(rel);

	if (IsCatalogRelation(rel) || IsToastRelation(rel) ||
		RelationGetNamespace(rel) == get_namespace_oid("cqrs", true))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("It is a system table."),
				 errhint("Register a table of your own.")));
	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ||
		rel->rd_rel->relispartition)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("It is a partitioned table or a partition."),
				 errhint("Register a table that is not partitioned.")));
	if (rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("It is a foreign table, whose changes by others are not seen here."),
				 errhint("Register the table on the server that owns it.")));
	if (rel->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("It is not a table."),
				 errhint("Register the table below a view; columns are chosen by \"fields\".")));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("It is a temporary table."),
				 errhint("Register a permanent table.")));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("It is an unlogged table, which a crash empties without a trace."),
				 errhint("Use ALTER TABLE ... SET LOGGED.")));
	if (rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("It is not of the access method \"heap\", on whose row versions the capture of changes relies."),
				 errhint("Use ALTER TABLE ... SET ACCESS METHOD heap, or recreate the table.")));
	if (has_superclass(RelationGetRelid(rel)) ||
		(rel->rd_rel->relhassubclass &&
		 find_inheritance_children(RelationGetRelid(rel), NoLock) != NIL))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("It has inheritance parents or children, whose rows would be part of it only in some commands."),
				 errhint("Register a table without inheritance.")));
	if (GetDatabaseEncoding() == PG_SQL_ASCII)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("The encoding of the database is SQL_ASCII; messages are UTF-8."),
				 errhint("Use a database with a known encoding.")));
}

/* System tables are for check_table() to refuse. */
static void
check_owner(Oid relid)
{
	const char *name = get_rel_name(relid);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	if (!cqrs_owns_relation(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, name);
}

/* It becomes a routing key, in which "*" and "#" are for bindings only. */
static void
check_cqrs_id(const char *cqrs_id)
{
	if (cqrs_id[0] == '\0' || strlen(cqrs_id) > CQRS_ID_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid cqrs_id \"%s\"", cqrs_id),
				 errdetail("It must have 1 to %d bytes.", CQRS_ID_BYTES),
				 errhint("Choose one with the argument \"cqrs_id\".")));
	for (const char *c = cqrs_id; *c != '\0'; c++)
	{
		if (*c == '*' || *c == '#' || (unsigned char) *c <= ' ')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_NAME),
					 errmsg("invalid cqrs_id \"%s\"", cqrs_id),
					 errdetail("It is used as a routing key, and must not contain \"*\", \"#\", blanks or control characters."),
					 errhint("Choose one with the argument \"cqrs_id\".")));
	}
}

static void
add_missing_columns(Oid relid)
{
	bool		revision = get_attnum(relid, "cqrs_revision") > 0;
	bool		updated = get_attnum(relid, "cqrs_updated") > 0;
	StringInfoData command;

	if (revision && updated)
		return;

	initStringInfo(&command);
	appendStringInfo(&command, "ALTER TABLE %s", qualified_name(relid));
	if (!revision)
		appendStringInfoString(&command,
							   " ADD COLUMN cqrs_revision pg_catalog.int4 NOT NULL DEFAULT 0");
	if (!updated)
		appendStringInfo(&command,
						 "%s ADD COLUMN cqrs_updated pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.now()",
						 revision ? "" : ",");
	execute(command.data);
}

/* Check that a master fits its table and functions. */
static void
check_definition(Oid relid, const CqrsMasterRow *row)
{
	Relation	rel = table_open(relid, NoLock);
	CqrsRelation relation = {0};

	cqrs_catalog_describe(rel, &relation);
	(void) cqrs_catalog_resolve(rel, &relation, row);
	if (row->meta != NULL)
		(void) cqrs_hook_find_meta(relid, row->meta, rel->rd_rel->relowner);
	table_close(rel, NoLock);
}

static void
create_triggers(Oid relid)
{
	const char *table = qualified_name(relid);

	if (OidIsValid(get_trigger_oid(relid, CQRS_TRIGGER_UPDATE, true)))
		return;

	execute(psprintf("CREATE TRIGGER %s BEFORE UPDATE ON %s"
					 " FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_update()",
					 CQRS_TRIGGER_UPDATE, table));
	execute(psprintf("CREATE TRIGGER %s AFTER INSERT OR DELETE ON %s"
					 " FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_insert_delete()",
					 CQRS_TRIGGER_INSERT_DELETE, table));
	execute(psprintf("CREATE TRIGGER %s BEFORE TRUNCATE ON %s"
					 " FOR EACH STATEMENT EXECUTE FUNCTION cqrs.trigger_truncate()",
					 CQRS_TRIGGER_TRUNCATE, table));
}

static void
drop_triggers(Oid relid)
{
	const char *names[] = {
		CQRS_TRIGGER_UPDATE, CQRS_TRIGGER_INSERT_DELETE, CQRS_TRIGGER_TRUNCATE
	};

	for (int i = 0; i < lengthof(names); i++)
	{
		if (OidIsValid(get_trigger_oid(relid, names[i], true)))
			execute(psprintf("DROP TRIGGER %s ON %s", names[i],
							 qualified_name(relid)));
	}
}

static void
execute(const char *command)
{
	int			result;

	SPI_connect();
	result = SPI_execute(command, false, 0);
	if (result != SPI_OK_UTILITY)
		elog(ERROR, "unexpected result %d of: %s", result, command);
	SPI_finish();
}

static char *
qualified_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}

/* Once in a session: nobody would see that changes only pile up. */
static void
warn_if_unconfigured(void)
{
	static bool warned = false;

	if (warned || cqrs_guc_url() != NULL)
		return;
	warned = true;
	ereport(WARNING,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("messages are not published, because \"cqrs.url\" is not set"),
			 errdetail("Changes wait in the outbox until it is."),
			 errhint("Use ALTER SYSTEM SET cqrs.url = 'amqp://user:password@host:port/vhost' and reload the configuration.")));
}

/*
 * Lock the table of a master against writers, check that the caller owns it,
 * and read the master.
 */
static Relation
lock_master(const char *cqrs_id, CqrsMasterRow **row)
{
	Oid			relid = cqrs_master_read(cqrs_id, false)->relid;
	Relation	rel;

	check_owner(relid);
	rel = table_open(relid, ShareRowExclusiveLock);
	check_owner(relid);
	*row = cqrs_master_read(cqrs_id, false);
	if ((*row)->relid != relid)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("master \"%s\" was changed concurrently", cqrs_id)));
	return rel;
}

/*
 * Changes become messages when the transaction commits.  Those that were made
 * under the old definition must not be sent, or dropped, under the new one.
 */
static void
refuse_own_changes(Relation rel)
{
	if (!cqrs_changeset_has_notes(RelationGetRelid(rel)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot change masters of table \"%s\", because this transaction has changed rows of it",
					RelationGetRelationName(rel)),
			 errhint("Commit the changes first.")));
}

static void
apply_option(CqrsMasterRow *row, const char *name, JsonbValue *value)
{
	if (strcmp(name, "fields") == 0)
	{
		row->fields = option_names(name, value);
		if (row->fields == NIL && value->type != jbvNull)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"fields\" must not be empty"),
					 errhint("Use null for all columns.")));
	}
	else if (strcmp(name, "tracked_fields") == 0)
	{
		row->tracked_fields = option_names(name, value);
		row->tracks = value->type != jbvNull;
	}
	else if (strcmp(name, "field_map") == 0)
		row->field_map = value->type == jbvNull ? (Datum) 0 :
			JsonbPGetDatum(JsonbValueToJsonb(value));
	else if (strcmp(name, "meta") == 0)
	{
		char	   *function = option_string(name, value);

		row->meta = function == NULL ? NULL :
			cqrs_hook_qualified_name(DatumGetObjectId(DirectFunctionCall1(regprocin,
																		  CStringGetDatum(function))));
	}
	else if (strcmp(name, "produce") == 0)
	{
		if (value->type != jbvBool)
			option_type_error(name, "true or false");
		row->produce = value->val.boolean;
	}
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized option \"%s\"", name),
				 errhint("Valid options are: fields, tracked_fields, field_map, meta, produce.")));
}

/* An array of strings, or null. */
static List *
option_names(const char *name, JsonbValue *value)
{
	List	   *names = NIL;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	elem;

	if (value->type == jbvNull)
		return NIL;
	if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
		option_type_error(name, "an array of column names, or null");

	it = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &elem, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (elem.type != jbvString)
			option_type_error(name, "an array of column names, or null");
		names = lappend(names, pnstrdup(elem.val.string.val,
										elem.val.string.len));
	}
	return names;
}

static char *
option_string(const char *name, JsonbValue *value)
{
	if (value->type == jbvNull)
		return NULL;
	if (value->type != jbvString)
		option_type_error(name, "a string, or null");
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static void
option_type_error(const char *name, const char *expected)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\"", name),
			 errdetail("It must be %s.", expected)));
}
