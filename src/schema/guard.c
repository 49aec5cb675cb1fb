/*-------------------------------------------------------------------------
 *
 * guard.c
 *	  What masters rely on in the schema: which changes of it are refused, and
 *	  how masters follow the others.
 *
 * Facts are read before a command and again after it (ddl.c), and only the
 * difference is judged.  So it does not matter by what way a column goes
 * (ALTER TABLE, DROP TYPE ... CASCADE, DROP OWNED), and nothing is asked of a
 * table that is not complete yet: pg_restore adds keys, triggers and functions
 * one by one to tables that are masters already.
 *
 * Facts come from the system catalogs without a lock on the table, since the
 * command takes the locks that it needs and no others may be waited for.  They
 * are compared for tables that this transaction has locked, by then, against
 * other changes of their schema; so what others do meanwhile is theirs.
 * Definitions of masters are read after the command, because one that is gone
 * or has been changed by then needs nothing any more.
 *
 * An error undoes the command with its (sub)transaction.  Changes of type,
 * persistence and access method are judged before the command as well, because
 * a large table may take hours to rewrite.
 *
 * A new option of masters that names a function gets a line in hooks[]; one
 * that names columns of the table is for column_use.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "commands/defrem.h"
#include "commands/trigger.h"
#include "nodes/parsenodes.h"
#include "parser/parse_type.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "master/column_use.h"
#include "master/hooks.h"
#include "master/master.h"
#include "outbox/parked.h"
#include "schema/guard.h"
#include "schema/triggers.h"

/* Functions that masters name. */
static const CqrsOption hooks[] = {
	CQRS_OPTION_META, CQRS_OPTION_SERIALIZER, CQRS_OPTION_DELETE_DATA
};

static const char *const trigger_names[] = {
	CQRS_TRIGGER_UPDATE, CQRS_TRIGGER_INSERT_DELETE, CQRS_TRIGGER_TRUNCATE
};

#define NTRIGGERS	lengthof(trigger_names)

typedef struct Column
{
	char	   *name;			/* NULL: dropped */
	Oid			type;
	bool		not_null;
} Column;

typedef struct TriggerFacts
{
	Oid			function;		/* InvalidOid: there is no such trigger */
	bool		enabled;
} TriggerFacts;

struct CqrsGuardedTable
{
	Oid			relid;
	char		persistence;
	Oid			access_method;
	bool		inherits;		/* has a parent, or children other than
								 * partitions */
	int			ncolumns;
	Column	   *columns;
	List	   *key;			/* numbers of columns; NIL: no primary key */
	TriggerFacts triggers[NTRIGGERS];
};

struct CqrsGuardedHook
{
	char	   *cqrs_id;
	int			hook;			/* index of hooks[] */
	List	   *functions;		/* oids: that name, and not VOLATILE */
};

static List *masters_above(Oid relid, bool *own);
static List *read_key(Oid relid);
static void read_triggers(CqrsGuardedTable *facts);
static CqrsGuardedTable *predict(const CqrsGuardedTable *before, List *commands);
static void check_table(bool disables_trigger, const CqrsGuardedTable *before,
						const CqrsGuardedTable *after);
static void check_storage(const CqrsGuardedTable *before,
						  const CqrsGuardedTable *after, const CqrsMasterRow *row);
static void check_enabled(const CqrsGuardedTable *before,
						  const CqrsGuardedTable *after, const CqrsMasterRow *row);
static void check_columns(const CqrsGuardedTable *before, const CqrsGuardedTable *after,
						  const CqrsMasterRow *row);
static void check_keys(const CqrsGuardedTable *before, const CqrsGuardedTable *after,
					   const CqrsMasterRow *row);
static void refuse(const char *action, Oid relid, const CqrsMasterRow *row,
				   const char *reason, const char *hint);
static void follow_parked(const CqrsGuardedTable *before, const CqrsGuardedTable *after,
						  const CqrsMasterRow *row);
static void follow_renames(const CqrsGuardedTable *before, const CqrsGuardedTable *after,
						   CqrsMasterRow *row);

void
cqrs_guard_foresee(const CqrsGuardedTable *before, List *commands)
{
	check_table(false, before, predict(before, commands));
}

void
cqrs_guard_check_table(const CqrsGuardedTable *before, bool disables_trigger)
{
	CqrsGuardedTable *after = cqrs_guard_table(before->relid);

	if (after != NULL)
		check_table(disables_trigger, before, after);
}

/*
 * The masters of a table or, where it has none of its own, of the nearest
 * partitioned table that it is a part of.
 */
static List *
masters_above(Oid relid, bool *own)
{
	List	   *rows = cqrs_master_read_all(relid);
	ListCell   *lc;

	*own = rows != NIL;
	if (*own || !get_rel_relispartition(relid))
		return rows;

	foreach(lc, get_partition_ancestors(relid))
	{
		rows = cqrs_master_read_all(lfirst_oid(lc));
		if (rows != NIL)
			break;
	}
	return rows;
}

CqrsGuardedTable *
cqrs_guard_table(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Form_pg_class class;
	CqrsGuardedTable *facts;

	if (!HeapTupleIsValid(tuple))
		return NULL;

	class = (Form_pg_class) GETSTRUCT(tuple);
	facts = palloc0(sizeof(CqrsGuardedTable));
	facts->relid = relid;
	facts->persistence = class->relpersistence;
	facts->access_method = class->relam;
	facts->inherits = has_superclass(relid) ||
		(class->relhassubclass && class->relkind != RELKIND_PARTITIONED_TABLE &&
		 find_inheritance_children(relid, NoLock) != NIL);
	facts->ncolumns = class->relnatts;
	ReleaseSysCache(tuple);

	facts->columns = palloc0(sizeof(Column) * facts->ncolumns);
	for (int i = 0; i < facts->ncolumns; i++)
	{
		Column	   *column = &facts->columns[i];
		Form_pg_attribute attribute;

		tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid),
								Int16GetDatum(i + 1));
		if (!HeapTupleIsValid(tuple))
			continue;
		attribute = (Form_pg_attribute) GETSTRUCT(tuple);
		if (!attribute->attisdropped)
		{
			column->name = pstrdup(NameStr(attribute->attname));
			column->type = attribute->atttypid;
			column->not_null = attribute->attnotnull;
		}
		ReleaseSysCache(tuple);
	}
	facts->key = read_key(relid);
	read_triggers(facts);
	return facts;
}

static List *
read_key(Oid relid)
{
	Relation	catalog = table_open(IndexRelationId, AccessShareLock);
	List	   *key = NIL;
	ScanKeyData scankey;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&scankey, Anum_pg_index_indrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, IndexIndrelidIndexId, true, NULL, 1,
							  &scankey);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_index index = (Form_pg_index) GETSTRUCT(tuple);

		if (!index->indisprimary || !index->indisvalid)
			continue;
		for (int i = 0; i < index->indnkeyatts; i++)
			key = lappend_int(key, index->indkey.values[i]);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return key;
}

static void
read_triggers(CqrsGuardedTable *facts)
{
	Relation	catalog = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData scankey;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&scankey, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(facts->relid));
	scan = systable_beginscan(catalog, TriggerRelidNameIndexId, true, NULL, 1,
							  &scankey);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);

		for (int i = 0; i < NTRIGGERS; i++)
		{
			if (strcmp(NameStr(trigger->tgname), trigger_names[i]) != 0)
				continue;
			facts->triggers[i].function = trigger->tgfoid;
			facts->triggers[i].enabled = trigger->tgenabled != TRIGGER_DISABLED;
		}
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
}

List *
cqrs_guard_hooks(List *rows)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, rows)
	{
		CqrsMasterRow *row = lfirst(lc);

		for (int i = 0; i < lengthof(hooks); i++)
		{
			const char *name = cqrs_master_text(row, hooks[i]);
			CqrsGuardedHook *facts;

			if (name == NULL)
				continue;
			facts = palloc(sizeof(CqrsGuardedHook));
			facts->cqrs_id = row->cqrs_id;
			facts->hook = i;
			facts->functions = cqrs_function_candidates(name);
			result = lappend(result, facts);
		}
	}
	return result;
}

/* A table as it would be after those commands that rewrite it. */
static CqrsGuardedTable *
predict(const CqrsGuardedTable *before, List *commands)
{
	CqrsGuardedTable *after = palloc(sizeof(CqrsGuardedTable));
	ListCell   *lc;

	*after = *before;
	after->columns = palloc(sizeof(Column) * after->ncolumns);
	memcpy(after->columns, before->columns, sizeof(Column) * after->ncolumns);

	foreach(lc, commands)
	{
		AlterTableCmd *command = lfirst_node(AlterTableCmd, lc);

		if (command->subtype == AT_SetUnLogged)
			after->persistence = RELPERSISTENCE_UNLOGGED;
		else if (command->subtype == AT_SetAccessMethod && command->name != NULL)
			after->access_method = get_am_oid(command->name, false);
		else if (command->subtype == AT_AlterColumnType)
		{
			ColumnDef  *definition = castNode(ColumnDef, command->def);

			for (int i = 0; i < after->ncolumns; i++)
			{
				if (after->columns[i].name != NULL &&
					strcmp(after->columns[i].name, command->name) == 0)
					after->columns[i].type =
						LookupTypeNameOid(NULL, definition->typeName, false);
			}
		}
	}
	return after;
}

/* Refuse what has been taken from masters, and follow renamed columns. */
static void
check_table(bool disables_trigger, const CqrsGuardedTable *before,
			const CqrsGuardedTable *after)
{
	bool		own;
	List	   *rows = masters_above(before->relid, &own);
	ListCell   *lc;

	foreach(lc, rows)
	{
		CqrsMasterRow *row = lfirst(lc);

		check_storage(before, after, row);
		if (disables_trigger)
			check_enabled(before, after, row);
		if (!own)
			continue;
		check_columns(before, after, row);
		follow_parked(before, after, row);
		follow_renames(before, after, row);
		check_keys(before, after, row);
	}
}

/* What concerns partitions as well. */
static void
check_storage(const CqrsGuardedTable *before, const CqrsGuardedTable *after,
			  const CqrsMasterRow *row)
{
	const char *end = "Use cqrs_unregister() to end the master.";

	if (after->persistence != before->persistence &&
		after->persistence == RELPERSISTENCE_UNLOGGED)
		refuse("change the persistence", after->relid, row,
			   "must not lose rows in a crash without a trace", end);
	if (after->access_method != before->access_method &&
		before->access_method == HEAP_TABLE_AM_OID)
		refuse("change the access method", after->relid, row,
			   "relies on the row versions of \"heap\"", end);

	for (int i = 0; i < NTRIGGERS; i++)
	{
		if (OidIsValid(before->triggers[i].function) &&
			before->triggers[i].function != after->triggers[i].function)
			refuse(psprintf("drop, rename or replace trigger \"%s\"",
							trigger_names[i]),
				   after->relid, row, "captures changes with it", end);
	}
}

/*
 * A trigger that was to be disabled by its name.  Not when another one is
 * missing or disabled: pg_restore disables those that were disabled in the
 * original, by DISABLE TRIGGER ALL, one by one.
 */
static void
check_enabled(const CqrsGuardedTable *before,
			  const CqrsGuardedTable *after, const CqrsMasterRow *row)
{
	for (int i = 0; i < NTRIGGERS; i++)
	{
		if (!before->triggers[i].enabled)
			return;
	}
	for (int i = 0; i < NTRIGGERS; i++)
	{
		if (before->triggers[i].enabled && !after->triggers[i].enabled)
			refuse(psprintf("disable trigger \"%s\"", trigger_names[i]),
				   after->relid, row, "captures changes with it",
				   "Use cqrs_alter() to set \"produce\" to false.");
	}
}

static void
check_columns(const CqrsGuardedTable *before, const CqrsGuardedTable *after,
			  const CqrsMasterRow *row)
{
	const char *leave_out = "Use cqrs_alter() to take the column out of the master, or cqrs_unregister() to end the master.";
	const char *again = "Use cqrs_alter() to take the column out of the master, or cqrs_unregister() before and cqrs_register() after the change.";
	const char *end = "Use cqrs_unregister() to end the master.";

	for (int i = 0; i < before->ncolumns; i++)
	{
		const Column *old = &before->columns[i];
		const Column *new = &after->columns[i];
		bool		own;
		char	   *quoted;

		if (old->name == NULL)
			continue;
		own = cqrs_definition_is_own(old->name);
		quoted = psprintf("column \"%s\"", old->name);
		if (new->name == NULL)
		{
			if (cqrs_definition_use(row, old->name) != NULL)
				refuse(psprintf("drop %s", quoted), after->relid, row,
					   cqrs_definition_use(row, old->name),
					   own || list_member_int(before->key, i + 1) ?
					   end : leave_out);
			continue;
		}
		if (new->type != old->type &&
			(cqrs_definition_publishes(row, old->name) ||
			 cqrs_definition_condition_uses(row, old->name)))
			refuse(psprintf("change the type of %s", quoted), after->relid, row,
				   cqrs_definition_use(row, old->name), again);
		if (own && old->not_null && !new->not_null)
			refuse(psprintf("drop NOT NULL of %s", quoted), after->relid, row,
				   cqrs_definition_use(row, old->name), end);
		if (strcmp(old->name, new->name) != 0 &&
			cqrs_definition_condition_uses(row, old->name))
			refuse(psprintf("rename %s", quoted), after->relid, row,
				   "has it in sync_when",
				   "Use cqrs_alter() to take sync_when away, and to set it again after the change.");
		if (own && strcmp(old->name, new->name) != 0)
			refuse(psprintf("rename %s", quoted), after->relid, row,
				   cqrs_definition_use(row, old->name), end);
	}

	if (before->key != NIL && !equal(before->key, after->key))
		refuse("drop or change the primary key", after->relid, row,
			   "identifies rows by it",
			   "Use cqrs_unregister() before and cqrs_register() after the change. The index alone is replaced by dropping and adding the key in one ALTER TABLE.");
	if (after->inherits && !before->inherits)
		refuse("change the inheritance", after->relid, row,
			   "stands for a table without inheritance", end);
}

/* A column that is added must not come under the key of another one. */
static void
check_keys(const CqrsGuardedTable *before, const CqrsGuardedTable *after,
		   const CqrsMasterRow *row)
{
	for (int i = before->ncolumns; i < after->ncolumns; i++)
	{
		const char *added = after->columns[i].name;

		if (added == NULL || !cqrs_definition_publishes(row, added))
			continue;
		for (int j = 0; j < i; j++)
		{
			const char *other = after->columns[j].name;

			if (other == NULL || !cqrs_definition_publishes(row, other) ||
				strcmp(cqrs_definition_key(row, added), cqrs_definition_key(row, other)) != 0)
				continue;
			refuse(psprintf("add column \"%s\"", added), after->relid, row,
				   psprintf("publishes column \"%s\" under this key", other),
				   "Choose another name, or use cqrs_alter() to change \"fields\" or \"field_map\" first.");
		}
	}
}

/*
 * When a function of the name that a master gives has gone or become
 * VOLATILE, see whether the master can do without.
 */
void
cqrs_guard_check_hook(const CqrsGuardedHook *before)
{
	CqrsMasterRow *row = cqrs_master_read(before->cqrs_id, true);
	MemoryContext context = CurrentMemoryContext;
	const char *name;
	HeapTuple	tuple;
	Oid			owner;

	if (row == NULL)
		return;
	name = cqrs_master_text(row, hooks[before->hook]);
	if (name == NULL ||
		list_difference_oid(before->functions, cqrs_function_candidates(name)) == NIL)
		return;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(row->relid));
	if (!HeapTupleIsValid(tuple))
		return;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);

	PG_TRY();
	{
		cqrs_function_check(hooks[before->hook], name, row->relid,
							owner);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot change or drop the %s of master \"%s\"",
						cqrs_function_role(hooks[before->hook]), row->cqrs_id),
				 errdetail("After the command: %s.", error->message),
				 errhint("Use cqrs_alter() to give the master another function or none.")));
	}
	PG_END_TRY();
}

static void
refuse(const char *action, Oid relid, const CqrsMasterRow *row,
	   const char *reason, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot %s of table \"%s\"", action, get_rel_name(relid)),
			 errdetail("Master \"%s\" %s.", row->cqrs_id, reason),
			 errhint("%s", hint)));
}

/* Parked messages of deleted rows keep the rows, which name all columns. */
static void
follow_parked(const CqrsGuardedTable *before, const CqrsGuardedTable *after,
			  const CqrsMasterRow *row)
{
	for (int i = 0; i < before->ncolumns; i++)
	{
		const char *from = before->columns[i].name;
		const char *to = after->columns[i].name;

		if (from != NULL && (to == NULL || strcmp(from, to) != 0))
			cqrs_parked_follow(row->cqrs_id, from, to);
	}
}

/* Have a master name renamed columns anew, so that its messages stay. */
static void
follow_renames(const CqrsGuardedTable *before, const CqrsGuardedTable *after,
			   CqrsMasterRow *row)
{
	bool		changed = false;

	for (int i = 0; i < before->ncolumns; i++)
	{
		const char *from = before->columns[i].name;
		const char *to = after->columns[i].name;

		if (from == NULL || to == NULL || strcmp(from, to) == 0 ||
			cqrs_definition_use(row, from) == NULL)
			continue;
		cqrs_definition_rename(row, from, to);
		changed = true;
	}
	if (!changed)
		return;
	cqrs_master_update(row);
	CacheInvalidateRelcacheByRelid(row->relid);
	CommandCounterIncrement();
}
