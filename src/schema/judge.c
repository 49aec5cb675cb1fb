/*-------------------------------------------------------------------------
 *
 * judge.c
 *	  The judge of commands that change the schema below masters.
 *
 * It reads what masters rely on before a command, and has it compared after
 * the command: tables and functions by guard.c, sync_when by meaning.c.
 *
 * A command that drops a table, or detaches it from its master, is refused as
 * well if the transaction has changed rows of the table whose messages are not
 * made yet.  cqrs_unregister() refuses the same.
 *
 * When a command has dropped the table of a master, the owner of the table is
 * noted, to whom the messages of the master belong (outbox/former.c).
 *
 * When the extension itself is dropped, the masters' tables are locked first.
 * A writer locks its table, and at commit a segment of the outbox.  DROP
 * EXTENSION would lock them in the opposite order, and could deadlock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/guc.h"
#include "base/hypertable.h"
#include "base/objects.h"
#include "capture/changeset.h"
#include "ddl/ddl.h"
#include "define/function.h"
#include "define/rights.h"
#include "master/master.h"
#include "master/relation.h"
#include "outbox/former.h"
#include "schema/guard.h"
#include "schema/guarded_hook.h"
#include "schema/judge.h"
#include "schema/meaning.h"

/* A master, and the owner of its table. */
typedef struct Owned
{
	char	   *cqrs_id;
	Oid			relid;
	Oid			owner;
} Owned;

/* What masters rely on and a command may change. */
typedef struct Reliance
{
	List	   *hooks;			/* of CqrsGuardedHook */
	List	   *meanings;		/* of CqrsMeaning */
	List	   *changed;		/* tables with changed rows, where the command
								 * may take some away */
	List	   *changed_names;	/* and their names */
	List	   *owned;			/* of Owned: masters that the command may take
								 * away with their tables */
	List	   *foreign;		/* of CqrsForeignFunction */
} Reliance;

static List *relids(void);
static void *judge_before(const CqrsDdlCommand *command);
static void judge_after(const CqrsDdlCommand *command, void *state);
static void lock_masters(void);
static void check_table(const CqrsDdlCommand *command, void *state,
						const CqrsTableFacts *facts);
static void foresee(const CqrsDdlCommand *command, AlterTableStmt *alter);
static void foresee_attach(Oid relid, RangeVar *name);
static void foresee_children(const CqrsDdlCommand *command, List *parents);
static List *list_owned(void);
static void note_former(const Reliance *reliance);
static void list_changed(Reliance *reliance);
static void check_changed(const Reliance *reliance);

static const CqrsDdlJudge judge = {relids, judge_before, judge_after, lock_masters};

void
cqrs_judge_init(void)
{
	cqrs_meaning_init();
	cqrs_ddl_register(&judge);
}

/* This one and the next two are those of CqrsDdlJudge (ddl.h). */
static List *
relids(void)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, cqrs_master_read_all(InvalidOid))
		result = list_append_unique_oid(result,
										((CqrsMasterRow *) lfirst(lc))->relid);
	return result;
}

static void *
judge_before(const CqrsDdlCommand *command)
{
	bool		takes = command->takes_tables && !cqrs_changeset_is_empty();
	Reliance   *reliance;

	if (command->scope == CQRS_SCOPE_NONE && !command->takes_tables &&
		!command->changes_meanings && !command->changes_owners)
		return NULL;

	reliance = palloc0(sizeof(Reliance));
	if (command->scope == CQRS_SCOPE_FUNCTIONS ||
		command->scope == CQRS_SCOPE_ALL)
		reliance->hooks = cqrs_guarded_hook_list(cqrs_master_read_all(InvalidOid));
	if (IsA(command->statement, AlterTableStmt))
		foresee(command, castNode(AlterTableStmt, command->statement));
	if (IsA(command->statement, CreateStmt) ||
		IsA(command->statement, CreateForeignTableStmt))
		foresee_children(command, ((CreateStmt *) command->statement)->inhRelations);
	if (takes)
		list_changed(reliance);
	if (command->takes_tables && cqrs_objects_are_usable())
		reliance->owned = list_owned();
	if (command->changes_owners)
		reliance->foreign =
			cqrs_guarded_hook_foreign(cqrs_master_read_all(InvalidOid));
	if (command->changes_meanings)
		reliance->meanings =
			cqrs_meaning_read(cqrs_master_read_all(InvalidOid));
	return reliance;
}

static void
judge_after(const CqrsDdlCommand *command, void *state)
{
	const Reliance *reliance = state;
	ListCell   *lc;

	cqrs_ddl_each_table(command, state, check_table);
	foreach(lc, reliance->hooks)
		cqrs_guarded_hook_check(lfirst(lc));
	foreach(lc, reliance->meanings)
		cqrs_meaning_check(lfirst(lc), command->respells ?
						   command->retyped : InvalidOid);
	if (OidIsValid(command->retyped))
		cqrs_guard_check_type(command->retyped);
	if (OidIsValid(command->renamed))
		cqrs_guard_notice_renamed(command->renamed);
	check_changed(reliance);
	note_former(reliance);
	if (command->changes_owners)
		cqrs_function_warn_foreign(cqrs_guarded_hook_foreign(cqrs_master_read_all(InvalidOid)),
								   reliance->foreign);
}

/* For cqrs_ddl_each_table(). */
static void
check_table(const CqrsDdlCommand *command, void *state,
			const CqrsTableFacts *facts)
{
	cqrs_guard_check_table(facts, command->disables_trigger);
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
	foreach(lc, relids())
	{
		LockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
		(void) find_all_inheritors(lfirst_oid(lc), AccessExclusiveLock, NULL);
	}
}

/* Judge parts of ALTER TABLE before they run, if the user may run them. */
static void
foresee(const CqrsDdlCommand *command, AlterTableStmt *alter)
{
	ListCell   *lc;

	foreach(lc, alter->cmds)
	{
		AlterTableCmd *part = lfirst_node(AlterTableCmd, lc);

		if (part->subtype == AT_AttachPartition)
			foresee_attach(command->altered,
						   castNode(PartitionCmd, part->def)->name);
		else if (part->subtype == AT_AddInherit)
			foresee_children(command, list_make1(part->def));
	}
	foreach(lc, command->tables)
	{
		const CqrsTableFacts *facts = lfirst(lc);

		if (facts->relid == command->altered &&
			cqrs_owns_relation(facts->relid, GetUserId()))
			cqrs_guard_foresee(facts, alter->cmds);
	}
}

/* Judge ATTACH PARTITION before it scans, if the user may attach it. */
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

/*
 * Facts do not tell children that a command makes, of a hypertable or of a chunk,
 * from the chunks that TimescaleDB makes.
 */
static void
foresee_children(const CqrsDdlCommand *command, List *parents)
{
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, parents)
	{
		Oid			relid = RangeVarGetRelid(lfirst_node(RangeVar, lc), NoLock, true);

		foreach(lc2, command->tables)
		{
			const CqrsTableFacts *facts = lfirst(lc2);

			if (facts->relid == relid && cqrs_owns_relation(relid, GetUserId()))
				cqrs_guard_foresee_child(facts->is_hypertable ? relid :
										 cqrs_hypertable_of_chunk(relid));
		}
	}
}

static List *
list_owned(void)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, cqrs_master_read_all(InvalidOid))
	{
		const CqrsMasterRow *row = lfirst(lc);
		Owned	   *owned = palloc(sizeof(Owned));

		owned->cqrs_id = row->cqrs_id;
		owned->relid = row->relid;
		owned->owner = cqrs_rights_table_owner(row->relid);
		result = lappend(result, owned);
	}
	return result;
}

/*
 * A dropped table has taken its masters along (cqrs.forget_dropped()).  After the
 * command nobody can tell who owned the table.
 */
static void
note_former(const Reliance *reliance)
{
	ListCell   *lc;

	foreach(lc, reliance->owned)
	{
		const Owned *owned = lfirst(lc);

		if (OidIsValid(owned->owner) &&
			!OidIsValid(cqrs_rights_table_owner(owned->relid)))
			cqrs_former_note(owned->cqrs_id, owned->owner);
	}
}

/* List the tables whose rows the transaction has changed. */
static void
list_changed(Reliance *reliance)
{
	for (int i = 0; i < cqrs_changeset_ntargets(); i++)
	{
		Oid			relid = cqrs_changeset_get_target(i)->relid;
		char	   *name = get_rel_name(relid);

		if (name == NULL || list_member_oid(reliance->changed, relid))
			continue;
		reliance->changed = lappend_oid(reliance->changed, relid);
		reliance->changed_names = lappend(reliance->changed_names, name);
	}
}

/*
 * Refuse the command if it took such a table from its masters, and messages
 * are owed.
 */
static void
check_changed(const Reliance *reliance)
{
	ListCell   *lc;
	ListCell   *lc2;

	forboth(lc, reliance->changed, lc2, reliance->changed_names)
	{
		Oid			relid = lfirst_oid(lc);

		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)) &&
			cqrs_relation_get(relid) != NULL)
			continue;
		if (cqrs_produce && cqrs_changeset_has_known_notes(relid))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot drop or detach table \"%s\" because it has unpublished changes in this transaction",
							(char *) lfirst(lc2)),
					 errdetail("The messages of these changes would never be sent."),
					 errhint("Commit the changes first, or send them with cqrs_flush().")));
	}
}
