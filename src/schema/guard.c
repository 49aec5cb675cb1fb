/*-------------------------------------------------------------------------
 *
 * guard.c
 *	  What masters rely on in the schema: which schema changes are refused,
 *	  and how masters follow the others.
 *
 * Only the difference between the facts before a command and after it is
 * judged.  So the way in which a column is dropped does not matter (ALTER
 * TABLE, DROP TYPE ... CASCADE, DROP OWNED), and incomplete tables are
 * accepted: pg_restore adds keys, triggers and functions one by one to tables
 * that are masters already.
 *
 * Definitions of masters are read after the command, because a master that the
 * command has dropped or changed needs no check of its old definition.
 *
 * An error undoes the command with its (sub)transaction.  Changes of type, of
 * values (retype.c), of persistence and of access method are judged before the
 * command as well, because rewriting a large table may take hours.
 *
 * If a new option of masters names columns of the table, column_use.c needs to
 * know it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_am.h"
#include "commands/defrem.h"
#include "nodes/parsenodes.h"
#include "parser/parse_type.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"

#include "base/compat.h"
#include "base/hypertable.h"
#include "base/type_parts.h"
#include "ddl/facts.h"
#include "define/columns.h"
#include "master/column_use.h"
#include "master/master.h"
#include "outbox/parked.h"
#include "schema/guard.h"
#include "schema/retype.h"
#include "schema/triggers.h"

/* Our triggers, which capture changes. */
static const char *const our_triggers[] = {
	CQRS_TRIGGER_UPDATE, CQRS_TRIGGER_INSERT_DELETE, CQRS_TRIGGER_TRUNCATE
};

static const char *const register_anew =
"Use cqrs_unregister() before and cqrs_register() after the change, and cqrs_sync() to send the rows.";

static List *masters_above(Oid relid, bool *own);
static CqrsTableFacts *predict(const CqrsTableFacts *before, List *commands);
static void predict_column(CqrsTableFacts *after, int i,
						   const AlterTableCmd *command);
static void check_table(bool disables_trigger, const CqrsTableFacts *before,
						const CqrsTableFacts *after);
static void check_storage(const CqrsTableFacts *before,
						  const CqrsTableFacts *after, const CqrsMasterRow *row);
static void check_enabled(const CqrsTableFacts *before,
						  const CqrsTableFacts *after, const CqrsMasterRow *row);
static void check_values(const CqrsTableFacts *before,
						 const CqrsTableFacts *after, const CqrsMasterRow *row);
static bool decides_messages(const CqrsMasterRow *row, const char *name);
static void check_columns(const CqrsTableFacts *before, const CqrsTableFacts *after,
						  const CqrsMasterRow *row);
static void check_added(const CqrsTableFacts *before, const CqrsTableFacts *after,
						const CqrsMasterRow *row);
static void refuse(const char *message, const char *detail, const char *hint);
static void follow_parked(const CqrsTableFacts *before, const CqrsTableFacts *after,
						  const CqrsMasterRow *row);
static void follow_renames(const CqrsTableFacts *before, const CqrsTableFacts *after,
						   CqrsMasterRow *row);

void
cqrs_guard_foresee(const CqrsTableFacts *before, List *commands)
{
	check_table(false, before, predict(before, commands));
}

void
cqrs_guard_check_table(const CqrsTableFacts *before, bool disables_trigger)
{
	CqrsTableFacts *after = cqrs_facts_table(before->relid);

	if (after != NULL)
		check_table(disables_trigger, before, after);
}

/*
 * The masters of a table or, if it has none of its own, of the nearest
 * partitioned table or the hypertable that it is a part of.
 */
static List *
masters_above(Oid relid, bool *own)
{
	List	   *rows = cqrs_master_read_all(relid);
	ListCell   *lc;

	*own = rows != NIL;
	if (*own)
		return rows;
	if (!get_rel_relispartition(relid))
	{
		Oid			hypertable = cqrs_hypertable_of_chunk(relid);

		return OidIsValid(hypertable) ? cqrs_master_read_all(hypertable) : NIL;
	}

	foreach(lc, get_partition_ancestors(relid))
	{
		rows = cqrs_master_read_all(lfirst_oid(lc));
		if (rows != NIL)
			break;
	}
	return rows;
}

/* The facts of a table after those commands that rewrite it. */
static CqrsTableFacts *
predict(const CqrsTableFacts *before, List *commands)
{
	CqrsTableFacts *after = palloc(sizeof(CqrsTableFacts));
	ListCell   *lc;

	*after = *before;
	after->columns = palloc(sizeof(CqrsColumnFacts) * after->ncolumns);
	memcpy(after->columns, before->columns, sizeof(CqrsColumnFacts) * after->ncolumns);

	foreach(lc, commands)
	{
		AlterTableCmd *command = lfirst_node(AlterTableCmd, lc);

		if (command->subtype == AT_SetUnLogged)
			after->persistence = RELPERSISTENCE_UNLOGGED;
		else if (command->subtype == AT_SetAccessMethod && command->name != NULL)
			after->access_method = get_am_oid(command->name, false);
		else if (command->subtype == AT_AlterColumnType ||
				 command->subtype == AT_SetExpression)
		{
			for (int i = 0; i < after->ncolumns; i++)
			{
				if (after->columns[i].name != NULL &&
					strcmp(after->columns[i].name, command->name) == 0)
					predict_column(after, i, command);
			}
		}
	}
	return after;
}

/*
 * What a part of ALTER TABLE makes of column "i": its type, and whether its
 * values are others.
 */
static void
predict_column(CqrsTableFacts *after, int i, const AlterTableCmd *command)
{
	CqrsColumnFacts *column = &after->columns[i];
	ColumnDef  *definition;

	if (command->subtype == AT_SetExpression)
	{
		column->is_computed = true;
		return;
	}
	definition = castNode(ColumnDef, command->def);
	typenameTypeIdAndMod(NULL, definition->typeName, &column->type,
						 &column->typmod);
	column->is_computed = definition->raw_default != NULL &&
		!cqrs_retype_using_keeps_values(after->relid, i + 1, definition);
}

/* Refuse what a command takes from masters, and follow renamed columns. */
static void
check_table(bool disables_trigger, const CqrsTableFacts *before,
			const CqrsTableFacts *after)
{
	bool		own;
	List	   *rows = masters_above(before->relid, &own);
	ListCell   *lc;

	foreach(lc, rows)
	{
		CqrsMasterRow *row = lfirst(lc);

		check_storage(before, after, row);
		check_values(before, after, row);
		if (disables_trigger)
			check_enabled(before, after, row);
		if (!own)
			continue;
		check_columns(before, after, row);
		follow_parked(before, after, row);
		follow_renames(before, after, row);
		check_added(before, after, row);
	}
}

/* Checks that also apply to partitions. */
static void
check_storage(const CqrsTableFacts *before, const CqrsTableFacts *after,
			  const CqrsMasterRow *row)
{
	const char *end = "Use cqrs_unregister() to end the master.";
	const char *table = get_rel_name(after->relid);

	if (after->persistence != before->persistence &&
		after->persistence == RELPERSISTENCE_UNLOGGED)
		refuse(psprintf("cannot change the persistence of table \"%s\"", table),
			   psprintf("Master \"%s\" must not lose rows in a crash without a trace.",
						row->cqrs_id), end);
	if (after->access_method != before->access_method &&
		before->access_method == HEAP_TABLE_AM_OID)
		refuse(psprintf("cannot change the access method of table \"%s\"", table),
			   psprintf("Master \"%s\" relies on the row versions of \"heap\".",
						row->cqrs_id), end);

	for (int i = 0; i < lengthof(our_triggers); i++)
	{
		Oid			function = cqrs_facts_trigger(before, our_triggers[i])->function;

		if (OidIsValid(function) &&
			function != cqrs_facts_trigger(after, our_triggers[i])->function)
			refuse(psprintf("cannot drop, rename or replace trigger \"%s\" of table \"%s\"",
							our_triggers[i], table),
				   psprintf("Master \"%s\" captures changes with the trigger.",
							row->cqrs_id), end);
	}
}

/*
 * Refuse to disable a trigger of ours by its name.  If another trigger is
 * missing or disabled already, accept it: pg_restore disables, one by one, the
 * triggers that were disabled in the original by DISABLE TRIGGER ALL.
 */
static void
check_enabled(const CqrsTableFacts *before,
			  const CqrsTableFacts *after, const CqrsMasterRow *row)
{
	for (int i = 0; i < lengthof(our_triggers); i++)
	{
		if (!cqrs_facts_trigger(before, our_triggers[i])->enabled)
			return;
	}
	for (int i = 0; i < lengthof(our_triggers); i++)
	{
		if (!cqrs_facts_trigger(after, our_triggers[i])->enabled)
			refuse(psprintf("cannot disable trigger \"%s\" of table \"%s\"",
							our_triggers[i], get_rel_name(after->relid)),
				   psprintf("Master \"%s\" captures changes with the trigger.",
							row->cqrs_id),
				   "Use cqrs_alter() to set \"produce\" to false.");
	}
}

/*
 * Refuse changes of values without an update of their rows: replicas would
 * keep the old values, and revisions would not show the difference.
 */
static void
check_values(const CqrsTableFacts *before, const CqrsTableFacts *after,
			 const CqrsMasterRow *row)
{
	for (int i = 0; i < before->ncolumns; i++)
	{
		const CqrsColumnFacts *old = &before->columns[i];
		const CqrsColumnFacts *new = &after->columns[i];

		if (old->name == NULL || new->name == NULL || new->type != old->type)
			continue;
		if ((new->is_computed ||
			 (new->typmod != old->typmod &&
			  !cqrs_retype_keeps_values(old->type, old->typmod, new->typmod))) &&
			decides_messages(row, old->name))
			refuse(psprintf("cannot change the values of column \"%s\" of table \"%s\"",
							old->name, get_rel_name(after->relid)),
				   cqrs_column_use_find(row, old->name), register_anew);
	}
}

/* Whether a column's values are in messages, or decide if there are any. */
static bool
decides_messages(const CqrsMasterRow *row, const char *name)
{
	return cqrs_column_use_publishes(row, name) ||
		cqrs_column_use_in_condition(row, name);
}

/*
 * Refuse what takes a column, its form or the key from a master of the table.
 */
static void
check_columns(const CqrsTableFacts *before, const CqrsTableFacts *after,
			  const CqrsMasterRow *row)
{
	const char *leave_out = "Use cqrs_alter() to take the column out of the master, or cqrs_unregister() to end the master.";
	const char *again = "Use cqrs_alter() to take the column out of the master, or cqrs_unregister() before and cqrs_register() after the change.";
	const char *end = "Use cqrs_unregister() to end the master.";
	const char *table = get_rel_name(after->relid);

	for (int i = 0; i < before->ncolumns; i++)
	{
		const CqrsColumnFacts *old = &before->columns[i];
		const CqrsColumnFacts *new = &after->columns[i];
		bool		own;

		if (old->name == NULL)
			continue;
		own = cqrs_columns_is_own(old->name);
		if (new->name == NULL)
		{
			if (cqrs_column_use_find(row, old->name) != NULL)
				refuse(psprintf("cannot drop column \"%s\" of table \"%s\"",
								old->name, table),
					   cqrs_column_use_find(row, old->name),
					   own || list_member_int(before->key, i + 1) ?
					   end : leave_out);
			continue;
		}
		if (new->type != old->type && decides_messages(row, old->name))
			refuse(psprintf("cannot change the type of column \"%s\" of table \"%s\"",
							old->name, table),
				   cqrs_column_use_find(row, old->name), again);
		if (own && old->not_null && !new->not_null)
			refuse(psprintf("cannot drop NOT NULL of column \"%s\" of table \"%s\"",
							old->name, table),
				   cqrs_column_use_find(row, old->name), end);
		if (own && !old->is_identity && new->is_identity)
			refuse(psprintf("cannot add an identity to column \"%s\" of table \"%s\"",
							old->name, table),
				   cqrs_column_use_find(row, old->name), end);
		if (own && strcmp(old->name, new->name) != 0)
			refuse(psprintf("cannot rename column \"%s\" of table \"%s\"",
							old->name, table),
				   cqrs_column_use_find(row, old->name), end);
	}

	if (before->key != NIL && !equal(before->key, after->key))
		refuse(psprintf("cannot drop or change the primary key of table \"%s\"",
						table),
			   psprintf("Master \"%s\" identifies rows by the primary key.",
						row->cqrs_id),
			   "Use cqrs_unregister() before and cqrs_register() after the change. The index alone is replaced by dropping and adding the key in one ALTER TABLE.");
	if (after->inherits && !before->inherits)
		refuse(psprintf("cannot change the inheritance of table \"%s\"", table),
			   psprintf("Master \"%s\" requires a table without inheritance.",
						row->cqrs_id), end);
}

/*
 * A new column must not have the key of another one.  Existing rows have its
 * default from now on, which none of their messages has.
 */
static void
check_added(const CqrsTableFacts *before, const CqrsTableFacts *after,
			const CqrsMasterRow *row)
{
	for (int i = before->ncolumns; i < after->ncolumns; i++)
	{
		const char *added = after->columns[i].name;

		if (added == NULL || !cqrs_column_use_publishes(row, added))
			continue;
		for (int j = 0; j < i; j++)
		{
			const char *other = after->columns[j].name;

			if (other == NULL || !cqrs_column_use_publishes(row, other) ||
				strcmp(cqrs_column_use_key(row, added), cqrs_column_use_key(row, other)) != 0)
				continue;
			refuse(psprintf("cannot add column \"%s\" to table \"%s\"",
							added, get_rel_name(after->relid)),
				   psprintf("Master \"%s\" publishes column \"%s\" under this key.",
							row->cqrs_id, other),
				   "Choose another name, or use cqrs_alter() to change \"fields\" or \"field_map\" first.");
		}
		if (after->columns[i].has_default || after->columns[i].is_identity)
			ereport(NOTICE,
					(errmsg("master \"%s\" does not send existing rows with their values of column \"%s\"",
							row->cqrs_id, added),
					 errdetail("Replicas get the column with the next change of each row."),
					 errhint("Use cqrs_sync() or cqrs_sync_all() to send the rows.")));
	}
}

void
cqrs_guard_foresee_attach(Oid relid, Oid partition)
{
	List	   *rows = cqrs_master_read_all(partition);
	CqrsTableFacts *facts = cqrs_facts_table(partition);
	bool		own;

	if (rows != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot attach table \"%s\" as a partition",
						get_rel_name(partition)),
				 errdetail("Master \"%s\" publishes this table alone.",
						   ((CqrsMasterRow *) linitial(rows))->cqrs_id),
				 errhint("Use cqrs_unregister() to end the master. A master of the partitioned table has the rows of all partitions.")));

	if (facts == NULL || masters_above(relid, &own) == NIL)
		return;
	for (int i = 0; i < lengthof(our_triggers); i++)
	{
		/* The TRUNCATE trigger is not cloned; an existing one stays. */
		if (OidIsValid(cqrs_facts_trigger(facts, our_triggers[i])->function) &&
			strcmp(our_triggers[i], CQRS_TRIGGER_TRUNCATE) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot attach table \"%s\" as a partition",
							get_rel_name(partition)),
					 errdetail("The table has a trigger \"%s\" of a master that does not exist any more.",
							   our_triggers[i]),
					 errhint("Use DROP TRIGGER to drop this trigger, and the others of the table that call functions in the schema \"cqrs\".")));
	}
}

void
cqrs_guard_foresee_child(Oid hypertable)
{
	ListCell   *lc;

	if (!OidIsValid(hypertable))
		return;
	foreach(lc, cqrs_master_read_all(hypertable))
		refuse(psprintf("cannot change the inheritance of table \"%s\"",
						get_rel_name(hypertable)),
			   psprintf("Master \"%s\" publishes a hypertable, which has no children but its chunks.",
						((CqrsMasterRow *) lfirst(lc))->cqrs_id),
			   "Use cqrs_unregister() to end the master.");
}

void
cqrs_guard_notice_renamed(Oid relid)
{
	ListCell   *lc;

	foreach(lc, cqrs_master_read_all(relid))
		ereport(NOTICE,
				(errmsg("master \"%s\" stays with its table, which is named \"%s\" now",
						((CqrsMasterRow *) lfirst(lc))->cqrs_id,
						get_rel_name(relid)),
				 errhint("To have another table take its place, use cqrs_unregister() and cqrs_register().")));
}

void
cqrs_guard_check_type(Oid type)
{
	ListCell   *lc;

	foreach(lc, cqrs_master_read_all(InvalidOid))
	{
		CqrsMasterRow *row = lfirst(lc);
		CqrsTableFacts *facts = cqrs_facts_table(row->relid);

		for (int i = 0; facts != NULL && i < facts->ncolumns; i++)
		{
			const CqrsColumnFacts *column = &facts->columns[i];

			if (column->name == NULL ||
				!cqrs_column_use_publishes(row, column->name) ||
				!cqrs_type_parts_have(column->type, type))
				continue;
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot change the values of type %s",
							format_type_be(type)),
					 errdetail("Master \"%s\" publishes such values in column \"%s\" of table \"%s\".",
							   row->cqrs_id, column->name,
							   get_rel_name(row->relid)),
					 errhint("%s", register_anew)));
		}
	}
}

/* Raises the error: "cannot ACTION of table", because the master REASON. */
static void
refuse(const char *message, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("%s", message),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

/* Parked messages of deleted rows keep the rows, with all column names. */
static void
follow_parked(const CqrsTableFacts *before, const CqrsTableFacts *after,
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

/* Give a master the new column names, and keep its messages as they are. */
static void
follow_renames(const CqrsTableFacts *before, const CqrsTableFacts *after,
			   CqrsMasterRow *row)
{
	bool		changed = false;

	for (int i = 0; i < before->ncolumns; i++)
	{
		const char *from = before->columns[i].name;
		const char *to = after->columns[i].name;

		if (from == NULL || to == NULL || strcmp(from, to) == 0 ||
			cqrs_column_use_find(row, from) == NULL)
			continue;
		cqrs_column_use_rename(row, from, to);
		changed = true;
	}
	if (!changed)
		return;
	cqrs_master_update(row);
	CacheInvalidateRelcacheByRelid(row->relid);
	CommandCounterIncrement();
}
