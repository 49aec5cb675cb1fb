/*-------------------------------------------------------------------------
 *
 * ddl.c
 *	  Commands that change the schema: which objects each may touch.
 *
 * What tables must keep is known by judges, one for each kind of object that
 * users define: masters, replicas.  Each is asked before and after a command;
 * an error that it raises undoes the command.
 *
 * Without CASCADE, a command changes the tables that it names, their children,
 * and functions.  With CASCADE, and in DROP OWNED and DROP EXTENSION, a
 * command may touch anything, and all tables of all judges are looked at.  Far
 * more commands can change what an SQL expression means, and values change
 * their form when their type does: both concern any table.
 *
 * Facts about tables (facts.c) are read before a command and again after it,
 * and judges compare them.  They are compared only for tables that this
 * transaction has locked against other schema changes by then; schema changes
 * by other transactions are judged there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parse_type.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "base/objects.h"
#include "ddl/ddl.h"
#include "ddl/facts.h"
#include "ddl/own.h"

#define MAX_JUDGES	2

struct CqrsDdlGuard
{
	MemoryContext context;		/* holds all of this */
	CqrsDdlCommand command;
	void	   *states[MAX_JUDGES]; /* what before() has returned */
};

static const CqrsDdlJudge *judges[MAX_JUDGES];
static int	njudges = 0;

static bool is_ready(Node *statement);
static List *all_relids(void);
static void describe(CqrsDdlCommand *command);
static CqrsDdlScope find_scope(Node *statement, List **relids);
static CqrsDdlScope alter_table_scope(AlterTableStmt *alter, List **relids);
static CqrsDdlScope drop_scope(DropStmt *drop, List **relids);
static CqrsDdlScope rename_scope(RenameStmt *rename, List **relids);
static List *add_relation(List *relids, RangeVar *name);
static List *add_parents(List *relids, CreateStmt *create);
static bool takes_tables(Node *statement);
static bool changes_meanings(Node *statement);
static bool changes_owners(Node *statement);
static Oid	retyped(Node *statement);
static Oid	row_type(RangeVar *name);

void
cqrs_ddl_register(const CqrsDdlJudge *judge)
{
	Assert(njudges < MAX_JUDGES);
	judges[njudges++] = judge;
}

CqrsDdlGuard *
cqrs_ddl_before(Node *statement)
{
	CqrsDdlGuard *guard;
	CqrsDdlCommand command = {.statement = statement};
	MemoryContext context;
	MemoryContext caller;
	List	   *relids = NIL;
	bool		guards = false;

	if (cqrs_ddl_drops_extension(statement))
	{
		for (int i = 0; i < njudges; i++)
		{
			if (judges[i]->before_drop_extension != NULL)
				judges[i]->before_drop_extension();
		}
	}
	if (!is_ready(statement))
		return NULL;
	cqrs_own_check(statement);
	command.scope = find_scope(statement, &relids);
	command.takes_tables = takes_tables(statement);
	command.changes_meanings = changes_meanings(statement) &&
		cqrs_objects_are_usable();
	command.changes_owners = changes_owners(statement) &&
		cqrs_objects_are_usable();
	if (command.scope == CQRS_SCOPE_NONE && !command.takes_tables &&
		!command.changes_meanings && !command.changes_owners)
		return NULL;

	context = AllocSetContextCreate(CurrentMemoryContext, "cqrs ddl",
									ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	guard = palloc0(sizeof(CqrsDdlGuard));
	guard->context = context;
	guard->command = command;
	guard->command.relids = command.scope == CQRS_SCOPE_ALL ? all_relids() :
		list_copy(relids);
	describe(&guard->command);
	for (int i = 0; i < njudges; i++)
	{
		guard->states[i] = judges[i]->before(&guard->command);
		guards = guards || guard->states[i] != NULL;
	}
	MemoryContextSwitchTo(caller);
	if (guards)
		return guard;
	MemoryContextDelete(context);
	return NULL;
}

void
cqrs_ddl_after(CqrsDdlGuard *guard)
{
	MemoryContext caller;

	if (guard == NULL)
		return;

	CommandCounterIncrement();
	caller = MemoryContextSwitchTo(guard->context);
	if (cqrs_objects_get(true) != NULL)
	{
		for (int i = 0; i < njudges; i++)
		{
			if (guard->states[i] != NULL)
				judges[i]->after(&guard->command, guard->states[i]);
		}
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(guard->context);
}

void
cqrs_ddl_each_table(const CqrsDdlCommand *command, void *state,
					void (*check) (const CqrsDdlCommand *command,
								   void *state,
								   const CqrsTableFacts *before))
{
	ListCell   *lc;

	foreach(lc, command->tables)
	{
		const CqrsTableFacts *before = lfirst(lc);

		if (cqrs_compat_relation_locked(before->relid))
			check(command, state, before);
	}
}

bool
cqrs_ddl_drops_extension(Node *statement)
{
	ListCell   *lc;

	if (!IsA(statement, DropStmt) ||
		castNode(DropStmt, statement)->removeType != OBJECT_EXTENSION)
		return false;
	foreach(lc, castNode(DropStmt, statement)->objects)
	{
		if (strcmp(strVal(lfirst(lc)), "cqrs") == 0)
			return true;
	}
	return false;
}

/*
 * Whether there may be something to guard.  False while the extension itself
 * is being created, changed or dropped, piece by piece.
 */
static bool
is_ready(Node *statement)
{
	if (IsBinaryUpgrade)
		return false;
	if (cqrs_ddl_drops_extension(statement))
		return false;
	return !creating_extension ||
		CurrentExtensionObject != get_extension_oid("cqrs", true);
}

/* The tables of all judges. */
static List *
all_relids(void)
{
	List	   *relids = NIL;

	for (int i = 0; i < njudges; i++)
		relids = list_concat_unique_oid(relids, judges[i]->relids());
	return relids;
}

/* Fill in what a command is about. */
static void
describe(CqrsDdlCommand *command)
{
	Node	   *statement = command->statement;
	ListCell   *lc;

	foreach(lc, command->relids)
	{
		CqrsTableFacts *facts = cqrs_facts_table(lfirst_oid(lc));

		if (facts != NULL)
			command->tables = lappend(command->tables, facts);
	}
	if (IsA(statement, AlterTableStmt))
	{
		AlterTableStmt *alter = castNode(AlterTableStmt, statement);

		command->altered = RangeVarGetRelid(alter->relation, NoLock, true);
		foreach(lc, alter->cmds)
		{
			if (lfirst_node(AlterTableCmd, lc)->subtype == AT_DisableTrig)
				command->disables_trigger = true;
		}
	}
	if (!command->changes_meanings)
		return;
	command->retyped = retyped(statement);
	command->respells = !IsA(statement, RenameStmt);
	if (IsA(statement, RenameStmt) &&
		castNode(RenameStmt, statement)->renameType == OBJECT_TABLE)
		command->renamed = RangeVarGetRelid(castNode(RenameStmt, statement)->relation,
											NoLock, true);
}

/* The scope of a command; tables that it names are added to *relids. */
static CqrsDdlScope
find_scope(Node *statement, List **relids)
{
	CqrsDdlScope scope = CQRS_SCOPE_NONE;

	switch (nodeTag(statement))
	{
		case T_AlterTableStmt:
			scope = alter_table_scope(castNode(AlterTableStmt, statement), relids);
			break;

		case T_RenameStmt:
			scope = rename_scope(castNode(RenameStmt, statement), relids);
			break;

		case T_DropStmt:
			scope = drop_scope(castNode(DropStmt, statement), relids);
			break;

		case T_DropOwnedStmt:
			scope = CQRS_SCOPE_ALL;
			break;

		case T_AlterObjectSchemaStmt:
			switch (castNode(AlterObjectSchemaStmt, statement)->objectType)
			{
				case OBJECT_FUNCTION:
				case OBJECT_ROUTINE:
				case OBJECT_EXTENSION:
					scope = CQRS_SCOPE_FUNCTIONS;
					break;
				default:
					break;
			}
			break;

		case T_CreateFunctionStmt:
			if (castNode(CreateFunctionStmt, statement)->replace)
				scope = CQRS_SCOPE_FUNCTIONS;
			break;

		case T_AlterFunctionStmt:
			scope = CQRS_SCOPE_FUNCTIONS;
			break;

		case T_CreateTrigStmt:
			if (castNode(CreateTrigStmt, statement)->replace)
			{
				*relids = add_relation(*relids,
									   castNode(CreateTrigStmt, statement)->relation);
				scope = CQRS_SCOPE_TABLES;
			}
			break;

		case T_CreateStmt:
			*relids = add_parents(*relids, castNode(CreateStmt, statement));
			scope = CQRS_SCOPE_TABLES;
			break;

		case T_CreateForeignTableStmt:
			*relids = add_parents(*relids,
								  &castNode(CreateForeignTableStmt, statement)->base);
			scope = CQRS_SCOPE_TABLES;
			break;

		default:
			break;
	}
	if (scope == CQRS_SCOPE_NONE || (scope == CQRS_SCOPE_TABLES && *relids == NIL) ||
		cqrs_objects_get(true) == NULL)
		return CQRS_SCOPE_NONE;
	return scope;
}

/* What ALTER TABLE may touch; *relids gets the tables that it names. */
static CqrsDdlScope
alter_table_scope(AlterTableStmt *alter, List **relids)
{
	ListCell   *lc;

	/* Tables may be of a composite type that is altered. */
	if (alter->objtype == OBJECT_TYPE)
		return CQRS_SCOPE_ALL;

	*relids = add_relation(*relids, alter->relation);
	foreach(lc, alter->cmds)
	{
		AlterTableCmd *command = lfirst_node(AlterTableCmd, lc);

		/* Views and functions may go as well. */
		if (command->behavior == DROP_CASCADE)
			return CQRS_SCOPE_ALL;
		if (command->subtype == AT_AddInherit)
			*relids = add_relation(*relids, castNode(RangeVar, command->def));
		else if (command->subtype == AT_AttachPartition)
			*relids = add_relation(*relids,
								   castNode(PartitionCmd, command->def)->name);
	}
	return CQRS_SCOPE_TABLES;
}

/* The same of ALTER ... RENAME. */
static CqrsDdlScope
rename_scope(RenameStmt *rename, List **relids)
{
	switch (rename->renameType)
	{
		case OBJECT_COLUMN:
		case OBJECT_TRIGGER:
			*relids = add_relation(*relids, rename->relation);
			return CQRS_SCOPE_TABLES;

		case OBJECT_ATTRIBUTE:
			return CQRS_SCOPE_ALL;

		case OBJECT_FUNCTION:
		case OBJECT_ROUTINE:
		case OBJECT_SCHEMA:
			return CQRS_SCOPE_FUNCTIONS;

		default:
			return CQRS_SCOPE_NONE;
	}
}

/*
 * Without CASCADE, DROP drops little beside the named objects.  DROP EXTENSION
 * always drops the members of the extension.
 */
static CqrsDdlScope
drop_scope(DropStmt *drop, List **relids)
{
	ListCell   *lc;

	if (drop->behavior == DROP_CASCADE || drop->removeType == OBJECT_EXTENSION)
		return CQRS_SCOPE_ALL;

	switch (drop->removeType)
	{
		case OBJECT_FUNCTION:
		case OBJECT_ROUTINE:
			return CQRS_SCOPE_FUNCTIONS;

		case OBJECT_TRIGGER:
			foreach(lc, drop->objects)
			{
				List	   *name = list_copy(castNode(List, lfirst(lc)));

				name = list_truncate(name, list_length(name) - 1);
				*relids = add_relation(*relids,
									   makeRangeVarFromNameList(name));
			}
			return CQRS_SCOPE_TABLES;

		default:
			return CQRS_SCOPE_NONE;
	}
}

/*
 * Add the relation of a name, which is not locked; none if it does not exist.
 */
static List *
add_relation(List *relids, RangeVar *name)
{
	Oid			relid = RangeVarGetRelid(name, NoLock, true);

	return OidIsValid(relid) ? list_append_unique_oid(relids, relid) : relids;
}

/* Add the tables that a new one inherits from, but not those of a partition. */
static List *
add_parents(List *relids, CreateStmt *create)
{
	ListCell   *lc;

	if (create->partbound != NULL)
		return relids;
	foreach(lc, create->inhRelations)
		relids = add_relation(relids, lfirst_node(RangeVar, lc));
	return relids;
}

/* Whether a command may drop tables or detach partitions. */
static bool
takes_tables(Node *statement)
{
	ListCell   *lc;

	if (IsA(statement, DropStmt) || IsA(statement, DropOwnedStmt))
		return true;
	if (!IsA(statement, AlterTableStmt))
		return false;
	foreach(lc, castNode(AlterTableStmt, statement)->cmds)
	{
		if (lfirst_node(AlterTableCmd, lc)->subtype == AT_DetachPartition)
			return true;
	}
	return false;
}

/*
 * Whether an SQL expression may mean something else after a command, or
 * nothing at all.  No expression refers to indexes or triggers.
 */
static bool
changes_meanings(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_DropStmt:
			return castNode(DropStmt, statement)->removeType != OBJECT_INDEX &&
				castNode(DropStmt, statement)->removeType != OBJECT_TRIGGER;

		case T_AlterDomainStmt:
		case T_AlterEnumStmt:
		case T_AlterFunctionStmt:
		case T_AlterObjectSchemaStmt:
		case T_AlterOperatorStmt:
		case T_AlterTableStmt:
		case T_AlterTypeStmt:
		case T_CreateCastStmt:
		case T_CreateFunctionStmt:
		case T_DefineStmt:
		case T_DropOwnedStmt:
		case T_RenameStmt:
			return true;

		default:
			return false;
	}
}

static bool
changes_owners(Node *statement)
{
	ListCell   *lc;

	if (IsA(statement, ReassignOwnedStmt) || IsA(statement, AlterOwnerStmt))
		return true;
	if (!IsA(statement, AlterTableStmt))
		return false;
	foreach(lc, castNode(AlterTableStmt, statement)->cmds)
	{
		if (lfirst_node(AlterTableCmd, lc)->subtype == AT_ChangeOwner)
			return true;
	}
	return false;
}

/*
 * The type whose values take another form by a command wherever they are
 * stored: an enum with a renamed label, a row with other attributes.
 */
static Oid
retyped(Node *statement)
{
	ListCell   *lc;

	switch (nodeTag(statement))
	{
		case T_AlterEnumStmt:
			if (castNode(AlterEnumStmt, statement)->oldVal == NULL)
				return InvalidOid;
			return typenameTypeId(NULL,
								  makeTypeNameFromNameList(castNode(AlterEnumStmt, statement)->typeName));

		case T_RenameStmt:
			if (castNode(RenameStmt, statement)->renameType != OBJECT_ATTRIBUTE &&
				castNode(RenameStmt, statement)->renameType != OBJECT_COLUMN)
				return InvalidOid;
			return row_type(castNode(RenameStmt, statement)->relation);

		case T_AlterTableStmt:
			foreach(lc, castNode(AlterTableStmt, statement)->cmds)
			{
				AlterTableType subtype = lfirst_node(AlterTableCmd, lc)->subtype;

				if (subtype == AT_AddColumn || subtype == AT_DropColumn)
					return row_type(castNode(AlterTableStmt, statement)->relation);
			}
			return InvalidOid;

		default:
			return InvalidOid;
	}
}

/* The row type of the relation of a name; InvalidOid if there is none. */
static Oid
row_type(RangeVar *name)
{
	Oid			relid = RangeVarGetRelid(name, NoLock, true);

	return OidIsValid(relid) ? get_rel_type_id(relid) : InvalidOid;
}
