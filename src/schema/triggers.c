/*-------------------------------------------------------------------------
 *
 * triggers.c
 *	  The triggers of a table that has masters, and the columns they fill.
 *
 * All masters of a table share one set of triggers, whose functions are in
 * capture.c.  The caller has locked the table and its partitions against
 * writers, and has checked that the user owns the table: DDL goes through SPI
 * with the rights of the user.
 *
 * PostgreSQL clones row triggers to partitions, now and when partitions are
 * created or attached later.  It does not clone the TRUNCATE trigger, so
 * partitions get that one from here.  TimescaleDB does the same with chunks,
 * but nothing here notices when it makes one: the TRUNCATE trigger of a
 * hypertable deals with all chunks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/command.h"
#include "base/hypertable.h"
#include "schema/triggers.h"

static bool has_triggers(Oid relid);
static bool has_trigger(Relation rel, const char *name, int16 type);
static void create_truncate_trigger(Oid relid);
static void drop_trigger(Oid relid, const char *name);
static void enable_triggers_of(Oid relid, const CqrsMasterRow *row);
static void enable_trigger(Oid relid, const char *name, const char *mode);
static void add_column(StringInfo commands, Oid relid, const char *name,
					   Oid type_oid, const char *type, const char *value);
static bool has_default(Oid relid, AttrNumber attnum);

void
cqrs_triggers_add_columns(Oid relid)
{
	StringInfoData commands;

	initStringInfo(&commands);
	add_column(&commands, relid, "cqrs_revision", INT4OID, "pg_catalog.int4",
			   "0");
	add_column(&commands, relid, "cqrs_updated", TIMESTAMPTZOID,
			   "pg_catalog.timestamptz", "pg_catalog.now()");
	if (commands.len > 0)
		cqrs_command_run(psprintf("ALTER TABLE %s%s", cqrs_command_relation(relid),
								  commands.data));
}

/* Columns made by Django have no default, but plain SQL relies on one. */
static void
add_column(StringInfo commands, Oid relid, const char *name, Oid type_oid,
		   const char *type, const char *value)
{
	AttrNumber	attnum = get_attnum(relid, name);
	const char *separator = commands->len > 0 ? "," : "";

	if (attnum <= 0)
		appendStringInfo(commands,
						 "%s ADD COLUMN %s %s NOT NULL DEFAULT %s",
						 separator, name, type, value);
	else if (get_atttype(relid, attnum) == type_oid &&
			 !has_default(relid, attnum))
		appendStringInfo(commands, "%s ALTER COLUMN %s SET DEFAULT %s",
						 separator, name, value);
}

/* Whether the column, which exists, has a default. */
static bool
has_default(Oid relid, AttrNumber attnum)
{
	HeapTuple	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid),
										Int16GetDatum(attnum));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for attribute %d of relation %u",
			 attnum, relid);
	result = ((Form_pg_attribute) GETSTRUCT(tuple))->atthasdef;
	ReleaseSysCache(tuple);
	return result;
}

void
cqrs_triggers_create(Oid relid)
{
	const char *table = cqrs_command_relation(relid);
	ListCell   *lc;

	if (has_triggers(relid))
		return;
	/* Some triggers may exist: a dump of the table alone brings them. */
	cqrs_triggers_drop(relid);

	/* That of a hypertable deals with the chunks (capture/truncate.c). */
	if (cqrs_hypertable_is(relid))
		create_truncate_trigger(relid);
	else
		foreach(lc, find_all_inheritors(relid, NoLock, NULL))
			create_truncate_trigger(lfirst_oid(lc));

	cqrs_command_run(psprintf("CREATE TRIGGER %s BEFORE UPDATE ON %s"
							  " FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_update()",
							  CQRS_TRIGGER_UPDATE, table));
	cqrs_command_run(psprintf("CREATE TRIGGER %s AFTER INSERT OR DELETE ON %s"
							  " FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_insert_delete()",
							  quote_identifier(CQRS_TRIGGER_INSERT_DELETE), table));
}

void
cqrs_triggers_drop(Oid relid)
{
	ListCell   *lc;

	drop_trigger(relid, CQRS_TRIGGER_UPDATE);
	drop_trigger(relid, CQRS_TRIGGER_INSERT_DELETE);
	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
		drop_trigger(lfirst_oid(lc), CQRS_TRIGGER_TRUNCATE);
}

void
cqrs_triggers_enable(const CqrsMasterRow *row)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(row->relid, NoLock, NULL))
		enable_triggers_of(lfirst_oid(lc), row);
}

void
cqrs_triggers_follow(Oid relid, const CqrsMasterRow *row)
{
	if (!OidIsValid(get_trigger_oid(relid, CQRS_TRIGGER_UPDATE, true)) ||
		OidIsValid(get_trigger_oid(relid, CQRS_TRIGGER_TRUNCATE, true)))
		return;
	create_truncate_trigger(relid);
	CommandCounterIncrement();
	enable_triggers_of(relid, row);
}

/* Whether a table has all triggers of ours. */
static bool
has_triggers(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	bool		update = has_trigger(rel, CQRS_TRIGGER_UPDATE,
									 TRIGGER_TYPE_ROW | TRIGGER_TYPE_BEFORE |
									 TRIGGER_TYPE_UPDATE);
	bool		insert_delete = has_trigger(rel, CQRS_TRIGGER_INSERT_DELETE,
											TRIGGER_TYPE_ROW |
											TRIGGER_TYPE_INSERT |
											TRIGGER_TYPE_DELETE);
	bool		truncate = has_trigger(rel, CQRS_TRIGGER_TRUNCATE,
									   TRIGGER_TYPE_BEFORE |
									   TRIGGER_TYPE_TRUNCATE);

	table_close(rel, NoLock);
	return update && insert_delete && truncate;
}

/* An error when a trigger of that name is not as the extension makes it. */
static bool
has_trigger(Relation rel, const char *name, int16 type)
{
	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &rel->trigdesc->triggers[i];

		if (strcmp(trigger->tgname, name) != 0)
			continue;
		if (trigger->tgtype == type && trigger->tgnattr == 0 &&
			trigger->tgqual == NULL &&
			get_func_namespace(trigger->tgfoid) == get_namespace_oid("cqrs", true))
			return true;
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("trigger \"%s\" of table \"%s\" is not that of the extension",
						name, RelationGetRelationName(rel)),
				 errdetail("Changes are captured by triggers with certain names."),
				 errhint("Drop or rename the trigger.")));
	}
	return false;
}

/* Unless the table has it. */
static void
create_truncate_trigger(Oid relid)
{
	if (OidIsValid(get_trigger_oid(relid, CQRS_TRIGGER_TRUNCATE, true)))
		return;
	cqrs_command_run(psprintf("CREATE TRIGGER %s BEFORE TRUNCATE ON %s"
							  " FOR EACH STATEMENT EXECUTE FUNCTION cqrs.trigger_truncate()",
							  CQRS_TRIGGER_TRUNCATE, cqrs_command_relation(relid)));
}

/* If the table has it. */
static void
drop_trigger(Oid relid, const char *name)
{
	if (OidIsValid(get_trigger_oid(relid, name, true)))
		cqrs_command_run(psprintf("DROP TRIGGER %s ON %s", quote_identifier(name),
								  cqrs_command_relation(relid)));
}

/* For the table of a master, or a partition of it. */
static void
enable_triggers_of(Oid relid, const CqrsMasterRow *row)
{
	const char *names[] = {
		CQRS_TRIGGER_UPDATE, CQRS_TRIGGER_INSERT_DELETE, CQRS_TRIGGER_TRUNCATE
	};
	const char *mode = "";

	if (cqrs_master_is(row, CQRS_OPTION_REPLICATION, "replica"))
		mode = "REPLICA ";
	else if (cqrs_master_is(row, CQRS_OPTION_REPLICATION, "always"))
		mode = "ALWAYS ";
	for (int i = 0; i < lengthof(names); i++)
		enable_trigger(relid, names[i], mode);
}

/* Give a trigger its firing mode: "", "REPLICA " or "ALWAYS ". */
static void
enable_trigger(Oid relid, const char *name, const char *mode)
{
	Relation	rel = table_open(relid, NoLock);
	char		enabled = mode[0] == '\0' ? TRIGGER_FIRES_ON_ORIGIN : mode[0];
	bool		differs = false;

	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &rel->trigdesc->triggers[i];

		if (strcmp(trigger->tgname, name) == 0)
			differs = trigger->tgenabled != enabled;
	}
	table_close(rel, NoLock);
	if (differs)
		cqrs_command_run(psprintf("ALTER TABLE %s ENABLE %sTRIGGER %s",
								  cqrs_command_relation(relid), mode,
								  quote_identifier(name)));
}
