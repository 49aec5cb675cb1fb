/*-------------------------------------------------------------------------
 *
 * ddl.c
 *	  Commands that change the schema below masters: which objects each may
 *	  touch, and are therefore checked before and after it (guard.c).
 *
 * Without CASCADE, a command changes the tables that it names, their children,
 * and functions.  With CASCADE, and in DROP OWNED and DROP EXTENSION, a
 * command may touch anything, and all masters are checked.  Far more commands
 * can change what sync_when means (meaning.c), and values change their form
 * when their type does: both concern any master.
 *
 * A command that drops a table, or detaches it from its master, is refused as
 * well if the transaction has changed rows of the table whose messages are not
 * made yet.  cqrs_unregister() refuses the same.
 *
 * When the extension itself is dropped, the masters' tables are locked first.
 * A writer locks its table, and at commit a segment of the outbox.  DROP
 * EXTENSION would lock them in the opposite order, and could deadlock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_inherits.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parse_type.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/guc.h"
#include "base/objects.h"
#include "capture/changeset.h"
#include "master/master.h"
#include "master/relation.h"
#include "schema/ddl.h"
#include "schema/facts.h"
#include "schema/guard.h"
#include "schema/meaning.h"

/* What a command may touch. */
typedef enum Scope
{
	SCOPE_NONE,
	SCOPE_TABLES,				/* the tables that it names */
	SCOPE_HOOKS,				/* any function */
	SCOPE_ALL					/* anything */
} Scope;

struct CqrsDdlGuard
{
	MemoryContext context;		/* holds all of this */
	bool		disables_trigger;	/* the command does so by name */
	List	   *relids;			/* tables that may be touched */
	List	   *tables;			/* CqrsTableFacts of each, or NULL */
	List	   *hooks;			/* of CqrsGuardedHook */
	List	   *meanings;		/* of CqrsMeaning */
	Oid			type;			/* whose values the command gives another
								 * form, or InvalidOid */
	Oid			renamed;		/* table that it renames, or InvalidOid */
	List	   *changed;		/* tables with changed rows, where it may take
								 * some away */
	List	   *changed_names;	/* and their names */
};

static void lock_masters(void);
static bool is_ready(Node *statement);
static Scope find_scope(Node *statement, List **relids);
static Scope alter_table_scope(AlterTableStmt *alter, List **relids);
static Scope drop_scope(DropStmt *drop, List **relids);
static Scope rename_scope(RenameStmt *rename, List **relids);
static List *add_relation(List *relids, RangeVar *name);
static List *add_parents(List *relids, CreateStmt *create);
static void foresee(CqrsDdlGuard *guard, AlterTableStmt *alter);
static void foresee_attach(Oid relid, RangeVar *name);
static bool takes_tables(Node *statement);
static bool changes_meanings(Node *statement);
static Oid	retyped(Node *statement);
static Oid	row_type(RangeVar *name);
static void list_changed(CqrsDdlGuard *guard);
static void check_changed(const CqrsDdlGuard *guard);

CqrsDdlGuard *
cqrs_ddl_before(Node *statement)
{
	CqrsDdlGuard *guard;
	MemoryContext context;
	MemoryContext caller;
	List	   *relids = NIL;
	Scope		scope;
	bool		takes;
	bool		meanings;
	ListCell   *lc;

	if (cqrs_ddl_drops_extension(statement))
		lock_masters();
	if (!is_ready(statement))
		return NULL;
	scope = find_scope(statement, &relids);
	takes = !cqrs_changeset_is_empty() && takes_tables(statement);
	meanings = cqrs_objects_are_usable() && changes_meanings(statement);
	if (scope == SCOPE_NONE && !takes && !meanings)
		return NULL;

	context = AllocSetContextCreate(CurrentMemoryContext, "cqrs ddl",
									ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	guard = palloc0(sizeof(CqrsDdlGuard));
	guard->context = context;

	if (scope == SCOPE_HOOKS || scope == SCOPE_ALL)
	{
		List	   *rows = cqrs_master_read_all(InvalidOid);

		guard->hooks = cqrs_guard_hooks(rows);
		relids = NIL;
		foreach(lc, rows)
			relids = list_append_unique_oid(relids,
											((CqrsMasterRow *) lfirst(lc))->relid);
	}
	if (scope != SCOPE_HOOKS)
	{
		foreach(lc, relids)
			guard->tables = lappend(guard->tables,
									cqrs_facts_table(lfirst_oid(lc)));
		guard->relids = relids;
	}
	if (IsA(statement, AlterTableStmt))
		foresee(guard, castNode(AlterTableStmt, statement));
	if (takes)
		list_changed(guard);
	if (meanings)
	{
		guard->meanings = cqrs_meaning_read(cqrs_master_read_all(InvalidOid));
		guard->type = retyped(statement);
		if (IsA(statement, RenameStmt) &&
			castNode(RenameStmt, statement)->renameType == OBJECT_TABLE)
			guard->renamed = RangeVarGetRelid(castNode(RenameStmt, statement)->relation,
											  NoLock, true);
	}

	MemoryContextSwitchTo(caller);
	return guard;
}

void
cqrs_ddl_after(CqrsDdlGuard *guard)
{
	MemoryContext caller;
	ListCell   *lc;
	ListCell   *lc2;

	if (guard == NULL)
		return;

	CommandCounterIncrement();
	caller = MemoryContextSwitchTo(guard->context);
	if (cqrs_objects_get(true) != NULL)
	{
		forboth(lc, guard->relids, lc2, guard->tables)
		{
			if (lfirst(lc2) != NULL && cqrs_compat_relation_locked(lfirst_oid(lc)))
				cqrs_guard_check_table(lfirst(lc2), guard->disables_trigger);
		}
		foreach(lc, guard->hooks)
			cqrs_guard_check_hook(lfirst(lc));
		foreach(lc, guard->meanings)
			cqrs_meaning_check(lfirst(lc));
		if (OidIsValid(guard->type))
			cqrs_guard_check_type(guard->type);
		if (OidIsValid(guard->renamed))
			cqrs_guard_notice_renamed(guard->renamed);
		check_changed(guard);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(guard->context);
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
 * For superusers only, so that a user who may not drop the extension cannot
 * block writers.  Dropping the extension drops the masters' triggers.  If the
 * extension does not match the library, writes to masters fail anyway; nothing
 * is locked, since it has to be possible to drop the extension.
 */
static void
lock_masters(void)
{
	ListCell   *lc;

	if (!superuser() || !cqrs_objects_are_usable())
		return;
	foreach(lc, cqrs_master_read_all(InvalidOid))
	{
		Oid			relid = ((CqrsMasterRow *) lfirst(lc))->relid;

		LockRelationOid(relid, AccessExclusiveLock);
		(void) find_all_inheritors(relid, AccessExclusiveLock, NULL);
	}
}

/*
 * Whether there may be masters to check.  False while the extension itself is
 * being created, changed or dropped, piece by piece.
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

/* The scope of a command; tables that it names are added to *relids. */
static Scope
find_scope(Node *statement, List **relids)
{
	Scope		scope = SCOPE_NONE;

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
			scope = SCOPE_ALL;
			break;

		case T_AlterObjectSchemaStmt:
			switch (castNode(AlterObjectSchemaStmt, statement)->objectType)
			{
				case OBJECT_FUNCTION:
				case OBJECT_ROUTINE:
				case OBJECT_EXTENSION:
					scope = SCOPE_HOOKS;
					break;
				default:
					break;
			}
			break;

		case T_CreateFunctionStmt:
			if (castNode(CreateFunctionStmt, statement)->replace)
				scope = SCOPE_HOOKS;
			break;

		case T_AlterFunctionStmt:
			scope = SCOPE_HOOKS;
			break;

		case T_CreateTrigStmt:
			if (castNode(CreateTrigStmt, statement)->replace)
			{
				*relids = add_relation(*relids,
									   castNode(CreateTrigStmt, statement)->relation);
				scope = SCOPE_TABLES;
			}
			break;

		case T_CreateStmt:
			*relids = add_parents(*relids, castNode(CreateStmt, statement));
			scope = SCOPE_TABLES;
			break;

		case T_CreateForeignTableStmt:
			*relids = add_parents(*relids,
								  &castNode(CreateForeignTableStmt, statement)->base);
			scope = SCOPE_TABLES;
			break;

		default:
			break;
	}
	if (scope == SCOPE_NONE || (scope == SCOPE_TABLES && *relids == NIL) ||
		cqrs_objects_get(true) == NULL)
		return SCOPE_NONE;
	return scope;
}

static Scope
alter_table_scope(AlterTableStmt *alter, List **relids)
{
	ListCell   *lc;

	/* Tables may be of a composite type that is altered. */
	if (alter->objtype == OBJECT_TYPE)
		return SCOPE_ALL;

	*relids = add_relation(*relids, alter->relation);
	foreach(lc, alter->cmds)
	{
		AlterTableCmd *command = lfirst_node(AlterTableCmd, lc);

		/* Views and functions may go as well. */
		if (command->behavior == DROP_CASCADE)
			return SCOPE_ALL;
		if (command->subtype == AT_AddInherit)
			*relids = add_relation(*relids, castNode(RangeVar, command->def));
		else if (command->subtype == AT_AttachPartition)
			*relids = add_relation(*relids,
								   castNode(PartitionCmd, command->def)->name);
	}
	return SCOPE_TABLES;
}

static Scope
rename_scope(RenameStmt *rename, List **relids)
{
	switch (rename->renameType)
	{
		case OBJECT_COLUMN:
		case OBJECT_TRIGGER:
			*relids = add_relation(*relids, rename->relation);
			return SCOPE_TABLES;

		case OBJECT_ATTRIBUTE:
			return SCOPE_ALL;

		case OBJECT_FUNCTION:
		case OBJECT_ROUTINE:
		case OBJECT_SCHEMA:
			return SCOPE_HOOKS;

		default:
			return SCOPE_NONE;
	}
}

/*
 * Without CASCADE, DROP drops little beside the named objects.  DROP EXTENSION
 * always drops the members of the extension.
 */
static Scope
drop_scope(DropStmt *drop, List **relids)
{
	ListCell   *lc;

	if (drop->behavior == DROP_CASCADE || drop->removeType == OBJECT_EXTENSION)
		return SCOPE_ALL;

	switch (drop->removeType)
	{
		case OBJECT_FUNCTION:
		case OBJECT_ROUTINE:
			return SCOPE_HOOKS;

		case OBJECT_TRIGGER:
			foreach(lc, drop->objects)
			{
				List	   *name = list_copy(castNode(List, lfirst(lc)));

				name = list_truncate(name, list_length(name) - 1);
				*relids = add_relation(*relids,
									   makeRangeVarFromNameList(name));
			}
			return SCOPE_TABLES;

		default:
			return SCOPE_NONE;
	}
}

static List *
add_relation(List *relids, RangeVar *name)
{
	Oid			relid = RangeVarGetRelid(name, NoLock, true);

	return OidIsValid(relid) ? list_append_unique_oid(relids, relid) : relids;
}

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

/* Judge parts of ALTER TABLE before they run, if the user may run them. */
static void
foresee(CqrsDdlGuard *guard, AlterTableStmt *alter)
{
	Oid			relid = RangeVarGetRelid(alter->relation, NoLock, true);
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, alter->cmds)
	{
		AlterTableCmd *command = lfirst_node(AlterTableCmd, lc);

		if (command->subtype == AT_DisableTrig)
			guard->disables_trigger = true;
		else if (command->subtype == AT_AttachPartition)
			foresee_attach(relid, castNode(PartitionCmd, command->def)->name);
	}
	forboth(lc, guard->relids, lc2, guard->tables)
	{
		if (lfirst_oid(lc) == relid && lfirst(lc2) != NULL &&
			cqrs_owns_relation(relid, GetUserId()))
			cqrs_guard_foresee(lfirst(lc2), alter->cmds);
	}
}

static void
foresee_attach(Oid relid, RangeVar *name)
{
	Oid			partition = RangeVarGetRelid(name, NoLock, true);

	if (OidIsValid(relid) && OidIsValid(partition) &&
		cqrs_objects_are_usable() &&
		cqrs_owns_relation(relid, GetUserId()) &&
		cqrs_owns_relation(partition, GetUserId()))
		cqrs_guard_foresee_attach(relid, partition);
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

static Oid
row_type(RangeVar *name)
{
	Oid			relid = RangeVarGetRelid(name, NoLock, true);

	return OidIsValid(relid) ? get_rel_type_id(relid) : InvalidOid;
}

static void
list_changed(CqrsDdlGuard *guard)
{
	for (int i = 0; i < cqrs_changeset_ntargets(); i++)
	{
		Oid			relid = cqrs_changeset_get_target(i)->relid;
		char	   *name = get_rel_name(relid);

		if (name == NULL || list_member_oid(guard->changed, relid))
			continue;
		guard->changed = lappend_oid(guard->changed, relid);
		guard->changed_names = lappend(guard->changed_names, name);
	}
}

static void
check_changed(const CqrsDdlGuard *guard)
{
	ListCell   *lc;
	ListCell   *lc2;

	forboth(lc, guard->changed, lc2, guard->changed_names)
	{
		Oid			relid = lfirst_oid(lc);

		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)) &&
			cqrs_relation_get(relid) != NULL)
			continue;
		if (cqrs_produce && cqrs_changeset_has_known_notes(relid))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot take table \"%s\" from its masters, because this transaction has changed rows of it",
							(char *) lfirst(lc2)),
					 errdetail("Their messages would never be sent."),
					 errhint("Commit the changes first, or send them with cqrs_flush().")));
	}
}
