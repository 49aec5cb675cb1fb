/*-------------------------------------------------------------------------
 *
 * own.c
 *	  Commands that would change the form of the extension's own tables.
 *
 * The extension reads and writes its tables as PostgreSQL does its catalogs:
 * rows have the columns that the library knows, and are inserted into indexes of
 * plain columns.  One more column, or an index of an expression, would make the
 * server crash at the next write.  So such commands are refused, unless
 * allow_system_table_mods is on, as it is for catalogs.  Storage parameters,
 * owners, triggers and the like may be changed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/lsyscache.h"

#include "ddl/own.h"

static RangeVar *reshaped(Node *statement);
static bool keeps_form(const AlterTableStmt *alter);

void
cqrs_own_check(Node *statement)
{
	RangeVar   *name = reshaped(statement);
	Oid			relid;

	if (name == NULL || allowSystemTableMods)
		return;
	relid = RangeVarGetRelid(name, NoLock, true);
	if (!OidIsValid(relid) || get_rel_relkind(relid) == RELKIND_VIEW ||
		get_rel_namespace(relid) != get_namespace_oid("cqrs", true))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied: \"%s\" belongs to the extension cqrs",
					get_rel_name(relid)),
			 errdetail("The extension relies on the columns, indexes and names of its tables."),
			 errhint("Use a view, or a table of your own.")));
}

/* What a command is about, if it may change columns, indexes or names. */
static RangeVar *
reshaped(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_IndexStmt:
			return castNode(IndexStmt, statement)->relation;

		case T_RenameStmt:
			return castNode(RenameStmt, statement)->relation;

		case T_AlterObjectSchemaStmt:
			return castNode(AlterObjectSchemaStmt, statement)->relation;

		case T_AlterTableStmt:
			return keeps_form(castNode(AlterTableStmt, statement)) ? NULL :
				castNode(AlterTableStmt, statement)->relation;

		default:
			return NULL;
	}
}

static bool
keeps_form(const AlterTableStmt *alter)
{
	ListCell   *lc;

	foreach(lc, alter->cmds)
	{
		switch (lfirst_node(AlterTableCmd, lc)->subtype)
		{
			case AT_SetRelOptions:
			case AT_ResetRelOptions:
			case AT_ReplaceRelOptions:
			case AT_SetStatistics:
			case AT_SetOptions:
			case AT_ResetOptions:
			case AT_SetStorage:
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
				break;
			default:
				return false;
		}
	}
	return true;
}
