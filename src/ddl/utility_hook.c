/*-------------------------------------------------------------------------
 *
 * utility_hook.c
 *	  The utility hook: passes all commands to loan.c and schema changes to ddl.c,
 *	  and informs publishers of these:
 *
 *	  COMMIT PREPARED			the transaction's messages are now visible, but
 *								no callback of ours has run for them.  Apply
 *								workers do it without a command: any background
 *								worker's transaction that has written WAL without
 *								a transaction id of its own may be one
 *	  DROP EXTENSION			the publishers leave
 *	  DROP, ALTER DATABASE		need a database without other sessions: the
 *								publishers leave for some seconds
 *	  CREATE DATABASE			the same for the template; and the new database
 *								may have the extension from it
 *
 * Publishers are asked to leave only if the user may run the command.  If the
 * command fails all the same, the launcher starts them again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/inval.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/slot.h"
#include "outbox/published.h"
#include "ddl/ddl.h"
#include "ddl/loan.h"
#include "ddl/utility_hook.h"
#include "worker/wake.h"
#include "worker/worker.h"

typedef enum Followup
{
	FOLLOWUP_NONE,
	FOLLOWUP_WAKE_NOW,			/* the publishers */
	FOLLOWUP_WAKE_AT_COMMIT,
	FOLLOWUP_RESCAN				/* the databases, at commit */
} Followup;

static ProcessUtility_hook_type previous_hook;
static bool may_have_committed_prepared = false;

static void process_utility(PlannedStmt *statement, const char *query,
							bool read_only_tree,
							ProcessUtilityContext context,
							ParamListInfo params, QueryEnvironment *env,
							DestReceiver *dest, QueryCompletion *completion);
static void before_utility(Node *parsetree);
static Followup followup_of(Node *parsetree);
static Oid	resettled_database(Node *parsetree);
static void after_utility(Followup followup);
static bool can_have_workers(void);
static bool may_create_databases(void);
static void vacate_database(const char *name);
static void vacate_template(const char *name);
static const char *template_database(const CreatedbStmt *create);
static void at_transaction_end(XactEvent event, void *arg);

void
cqrs_utility_hook_init(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	RegisterXactCallback(at_transaction_end, NULL);
}

static void
process_utility(PlannedStmt *statement, const char *query,
				bool read_only_tree, ProcessUtilityContext context,
				ParamListInfo params, QueryEnvironment *env,
				DestReceiver *dest, QueryCompletion *completion)
{
	Node	   *parsetree = statement->utilityStmt;
	CqrsDdlGuard *guard;
	Followup	followup;
	Oid			resettled;

	cqrs_loan_check(parsetree);
	guard = cqrs_ddl_before(parsetree);
	/* The end of a transaction can free the statement. */
	followup = followup_of(parsetree);
	resettled = resettled_database(parsetree);

	before_utility(parsetree);
	if (previous_hook)
		previous_hook(statement, query, read_only_tree, context, params, env,
					  dest, completion);
	else
		standard_ProcessUtility(statement, query, read_only_tree, context,
								params, env, dest, completion);
	after_utility(followup);
	if (OidIsValid(resettled))
		cqrs_wake_resettle_at_commit(resettled);
	cqrs_ddl_after(guard);
}

/* Have workers leave a database that the command needs for itself. */
static void
before_utility(Node *parsetree)
{
	switch (nodeTag(parsetree))
	{
		case T_DropStmt:
			if (cqrs_ddl_drops_extension(parsetree) && superuser() &&
				cqrs_slot_find(MyDatabaseId) >= 0)
				cqrs_wake_vacate(MyDatabaseId);
			break;

		case T_DropdbStmt:
			vacate_database(castNode(DropdbStmt, parsetree)->dbname);
			break;

		case T_CreatedbStmt:
			if (may_create_databases())
				vacate_template(template_database(castNode(CreatedbStmt, parsetree)));
			break;

		case T_RenameStmt:
			if (castNode(RenameStmt, parsetree)->renameType == OBJECT_DATABASE)
				vacate_database(castNode(RenameStmt, parsetree)->subname);
			break;

		case T_AlterDatabaseStmt:
			{
				AlterDatabaseStmt *alter = castNode(AlterDatabaseStmt, parsetree);
				ListCell   *lc;

				foreach(lc, alter->options)
				{
					if (strcmp(lfirst_node(DefElem, lc)->defname, "tablespace") == 0)
						vacate_database(alter->dbname);
				}
				break;
			}

		default:
			break;
	}
}

/* What to do after a command has succeeded. */
static Followup
followup_of(Node *parsetree)
{
	switch (nodeTag(parsetree))
	{
		case T_TransactionStmt:
			if (castNode(TransactionStmt, parsetree)->kind == TRANS_STMT_COMMIT_PREPARED)
				return FOLLOWUP_WAKE_NOW;
			return FOLLOWUP_NONE;

		case T_DropdbStmt:
		case T_CreatedbStmt:
		case T_AlterDatabaseStmt:	/* ALLOW_CONNECTIONS, IS_TEMPLATE */
			return FOLLOWUP_RESCAN;

		case T_RenameStmt:
			/* Its lock may have kept a publisher from looking. */
			if (castNode(RenameStmt, parsetree)->renameType == OBJECT_DATABASE)
				return FOLLOWUP_RESCAN;
			return FOLLOWUP_NONE;

		case T_DropStmt:
			if (castNode(DropStmt, parsetree)->removeType == OBJECT_EXTENSION)
				return FOLLOWUP_WAKE_AT_COMMIT;
			return FOLLOWUP_NONE;

		case T_AlterExtensionStmt:
			/* Publishers may have failed, because the library is newer. */
			if (strcmp(castNode(AlterExtensionStmt, parsetree)->extname,
					   "cqrs") == 0)
				return FOLLOWUP_RESCAN;
			return FOLLOWUP_NONE;

		default:
			return FOLLOWUP_NONE;
	}
}

/* The database whose settings a command changes, if they are ours. */
static Oid
resettled_database(Node *parsetree)
{
	const VariableSetStmt *set;
	const char *name;

	if (IsA(parsetree, AlterDatabaseSetStmt))
	{
		set = castNode(AlterDatabaseSetStmt, parsetree)->setstmt;
		name = castNode(AlterDatabaseSetStmt, parsetree)->dbname;
	}
	else if (IsA(parsetree, AlterRoleSetStmt) &&
			 castNode(AlterRoleSetStmt, parsetree)->role == NULL &&
			 castNode(AlterRoleSetStmt, parsetree)->database != NULL)
	{
		/* ALTER ROLE ALL IN DATABASE is another name of the same. */
		set = castNode(AlterRoleSetStmt, parsetree)->setstmt;
		name = castNode(AlterRoleSetStmt, parsetree)->database;
	}
	else
		return InvalidOid;
	if (set->kind != VAR_RESET_ALL &&
		pg_strncasecmp(set->name, "cqrs.", 5) != 0)
		return InvalidOid;
	return get_database_oid(name, true);
}

/* Do what followup_of() has found for the command, which has succeeded. */
static void
after_utility(Followup followup)
{
	if (followup == FOLLOWUP_NONE)
		return;
	if (followup == FOLLOWUP_RESCAN)
		cqrs_wake_rescan_at_commit();
	else if (followup == FOLLOWUP_WAKE_NOW)
	{
		if (!can_have_workers())
			return;
		cqrs_published_count_commit();
		/* The transaction may have called cqrs_pause(). */
		cqrs_wake_want(CQRS_WORKER_PUBLISHER);
		/* The same for cqrs_pause_consumer(). */
		cqrs_wake_wanted(CQRS_WORKER_CONSUMER);
	}
	else if (cqrs_slot_find(MyDatabaseId) >= 0)
		cqrs_wake_want_at_commit(CQRS_WORKER_PUBLISHER);
}

/*
 * Whether there may be work for workers in the current database, and it has a
 * slot.  COMMIT PREPARED can bring the extension.  It has succeeded, so the lack of
 * a free slot is no error here.
 */
static bool
can_have_workers(void)
{
	int			slot = cqrs_slot_find(MyDatabaseId);

	if (slot >= 0)
		return true;
	/* Newer versions have a cache, which may still say that there is none. */
	AcceptInvalidationMessages();
	if (OidIsValid(get_extension_oid("cqrs", true)))
	{
		LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
		slot = cqrs_slot_take(MyDatabaseId);
		LWLockRelease(cqrs_slot_lock);
	}
	return slot >= 0;
}

/* PostgreSQL's own function is not exported by all versions. */
static bool
may_create_databases(void)
{
	HeapTuple	tuple;
	bool		may;

	if (superuser())
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (!HeapTupleIsValid(tuple))
		return false;
	may = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
	ReleaseSysCache(tuple);
	return may;
}

/* Ask publishers to leave for a command that only the owner may run. */
static void
vacate_database(const char *name)
{
	Oid			dboid = get_database_oid(name, true);

	if (OidIsValid(dboid) && dboid != MyDatabaseId &&
		cqrs_owns_database(dboid, GetUserId()))
		cqrs_wake_vacate(dboid);
}

/*
 * CREATE DATABASE copies databases that the user owns, or that are marked as
 * templates.
 */
static void
vacate_template(const char *name)
{
	Oid			dboid = get_database_oid(name, true);
	HeapTuple	tuple;
	bool		is_template = false;

	if (!OidIsValid(dboid))
		return;
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(dboid));
	if (HeapTupleIsValid(tuple))
	{
		is_template = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
		ReleaseSysCache(tuple);
	}
	if (is_template)
		cqrs_wake_vacate(dboid);
	else
		vacate_database(name);
}

/* The name of the database that CREATE DATABASE copies. */
static const char *
template_database(const CreatedbStmt *create)
{
	ListCell   *lc;

	foreach(lc, create->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "template") == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return "template1";
}

/*
 * Notice COMMIT PREPARED by a background worker that is not one of ours.
 * Other transactions without an id write WAL as well, when they prune pages.
 * Waking publishers for such a transaction only costs a look at the outbox.
 */
static void
at_transaction_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			may_have_committed_prepared = MyBackendType == B_BG_WORKER &&
				!cqrs_worker_is_here() && XactLastRecEnd != 0 &&
				!TransactionIdIsValid(GetTopTransactionIdIfAny());
			break;

		case XACT_EVENT_COMMIT:
			if (may_have_committed_prepared && OidIsValid(MyDatabaseId) &&
				cqrs_slot_find(MyDatabaseId) >= 0)
			{
				cqrs_published_count_commit();
				cqrs_wake_listeners(CQRS_WORKER_PUBLISHER);
			}
			may_have_committed_prepared = false;
			break;

		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			may_have_committed_prepared = false;
			break;

		default:
			break;
	}
}
