/*-------------------------------------------------------------------------
 *
 * own.c
 *	  Commands that would change the form of the extension's own tables.
 *
 * The extension reads and writes its tables as PostgreSQL does its catalogs:
 * rows have the columns that the library knows, and are inserted into indexes of
 * plain columns.  One more column, or an index of an expression, would make the
 * server crash at the next write.  A partition gets both from its parent.  So such
 * commands are refused, unless allow_system_table_mods is on, as it is for
 * catalogs.  Storage parameters, owners, triggers and the like may be changed.
 *
 * The schema keeps its name: without it, there is no extension for new sessions,
 * and changes of masters would be missed.
 *
 * A database without the extension may have a schema of that name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parse_type.h"
#include "utils/lsyscache.h"

#include "base/objects.h"
#include "ddl/own.h"

static List *reshaped(Node *statement);
static List *reshaped_by_alter(AlterTableStmt *alter);
static List *add(List *relids, const RangeVar *name);
static Oid	composite(Node *names);
static bool keeps_form(AlterTableType subtype);
static void refuse(const char *name);

void
cqrs_own_check(Node *statement)
{
	List	   *relids = reshaped(statement);
	bool		is_schema = IsA(statement, RenameStmt) &&
	castNode(RenameStmt, statement)->renameType == OBJECT_SCHEMA;
	Oid			schema;
	ListCell   *lc;

	if ((relids == NIL && !is_schema) || allowSystemTableMods)
		return;
	schema = cqrs_objects_schema();
	if (!OidIsValid(schema))
		return;
	if (is_schema &&
		get_namespace_oid(castNode(RenameStmt, statement)->subname, true) == schema)
		refuse(get_namespace_name(schema));
	foreach(lc, relids)
	{
		Oid			relid = lfirst_oid(lc);

		if (get_rel_namespace(relid) == schema &&
			get_rel_relkind(relid) != RELKIND_VIEW)
			refuse(get_rel_name(relid));
	}
}

/* Raises the error; "name" is the object that the command is about. */
static void
refuse(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied: \"%s\" belongs to the extension cqrs",
					name),
			 errdetail("The extension relies on the columns, indexes and names of its tables."),
			 errhint("Use a view, or a table of your own.")));
}

/* What a command is about, if it may change columns, indexes or names. */
static List *
reshaped(Node *statement)
{
	List	   *relids = NIL;
	ListCell   *lc;

	switch (nodeTag(statement))
	{
		case T_IndexStmt:
			return add(NIL, castNode(IndexStmt, statement)->relation);

		case T_RenameStmt:
			if (castNode(RenameStmt, statement)->renameType == OBJECT_TYPE)
				return list_make1_oid(composite(castNode(RenameStmt, statement)->object));
			return add(NIL, castNode(RenameStmt, statement)->relation);

		case T_AlterObjectSchemaStmt:
			if (castNode(AlterObjectSchemaStmt, statement)->objectType == OBJECT_TYPE)
				return list_make1_oid(composite(castNode(AlterObjectSchemaStmt, statement)->object));
			return add(NIL, castNode(AlterObjectSchemaStmt, statement)->relation);

		case T_AlterTableStmt:
			return reshaped_by_alter(castNode(AlterTableStmt, statement));

		case T_DropStmt:
			if (castNode(DropStmt, statement)->removeType != OBJECT_INDEX)
				return NIL;
			foreach(lc, castNode(DropStmt, statement)->objects)
				relids = add(relids, makeRangeVarFromNameList(lfirst_node(List, lc)));
			return relids;

		default:
			return NIL;
	}
}

/*
 * The same for ALTER TABLE: its table, unless its form stays as it is, and
 * tables that it attaches.
 */
static List *
reshaped_by_alter(AlterTableStmt *alter)
{
	List	   *relids = NIL;
	ListCell   *lc;

	foreach(lc, alter->cmds)
	{
		AlterTableCmd *command = lfirst_node(AlterTableCmd, lc);

		if (!keeps_form(command->subtype))
			relids = add(relids, alter->relation);
		if (command->subtype == AT_AttachPartition)
			relids = add(relids, castNode(PartitionCmd, command->def)->name);
	}
	return relids;
}

/* Add the relation of a name, which may be NULL or that of none. */
static List *
add(List *relids, const RangeVar *name)
{
	Oid			relid = name != NULL ? RangeVarGetRelid(name, NoLock, true) :
	InvalidOid;

	return OidIsValid(relid) ? list_append_unique_oid(relids, relid) : relids;
}

/* The relation of a composite type; InvalidOid for another type, or none. */
static Oid
composite(Node *names)
{
	Oid			type = LookupTypeNameOid(NULL,
										 makeTypeNameFromNameList(castNode(List, names)),
										 true);

	return OidIsValid(type) ? get_typ_typrelid(type) : InvalidOid;
}

/*
 * Whether a part of ALTER TABLE changes neither columns nor indexes nor names;
 * false for a part that is not known.
 */
static bool
keeps_form(AlterTableType subtype)
{
	switch (subtype)
	{
		case AT_SetRelOptions:
		case AT_ResetRelOptions:
		case AT_ReplaceRelOptions:
		case AT_SetStatistics:
		case AT_SetOptions:
		case AT_ResetOptions:
		case AT_SetCompression:
		case AT_SetTableSpace:
		case AT_ClusterOn:
		case AT_DropCluster:
		case AT_ReplicaIdentity:
		case AT_ChangeOwner:
		case AT_EnableTrig:
		case AT_EnableAlwaysTrig:
		case AT_EnableReplicaTrig:
		case AT_DisableTrig:
		case AT_EnableTrigAll:
		case AT_DisableTrigAll:
		case AT_EnableTrigUser:
		case AT_DisableTrigUser:
			return true;
		default:
			return false;
	}
}
