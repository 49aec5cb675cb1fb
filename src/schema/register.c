/*-------------------------------------------------------------------------
 *
 * register.c
 *	  cqrs_register, cqrs_alter, cqrs_unregister.
 *
 * All run with the rights of the caller, who has to own the table.  triggers.c
 * adds triggers and columns to the table; the row in cqrs.master is written
 * directly.  The table is locked against writers until the end of the
 * transaction, so a definition holds for whole transactions: transactions that
 * have written to the table before see the old one, all others the new one.
 * The invalidation of the table's relcache entry makes backends read the new
 * one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/compat.h"
#include "base/guc.h"
#include "base/hypertable.h"
#include "base/objects.h"
#include "capture/capture.h"
#include "capture/changeset.h"
#include "compose/hook.h"
#include "compose/key_type.h"
#include "define/function.h"
#include "define/name.h"
#include "define/rights.h"
#include "master/loaded.h"
#include "master/master.h"
#include "master/options.h"
#include "master/relation.h"
#include "outbox/claim.h"
#include "outbox/former.h"
#include "schema/eligible.h"
#include "schema/guarded_hook.h"
#include "schema/triggers.h"
#include "worker/wake.h"

PG_FUNCTION_INFO_V1(cqrs_register);
PG_FUNCTION_INFO_V1(cqrs_unregister);
PG_FUNCTION_INFO_V1(cqrs_alter);
PG_FUNCTION_INFO_V1(cqrs_sql_follow_partitions);

static void check_definition(Oid relid, const CqrsMasterRow *row);
static void check_key(Oid relid, const CqrsMasterRow *row);
static void check_revision_default(Oid relid);
static void check_same_replication(const CqrsMasterRow *row);
static void share_replication(const CqrsMasterRow *row);
static void check_former(const CqrsMasterRow *row);
static void begin_capture(Oid relid);
static bool has_new_partition(Oid relid);
static bool has_new_row(Oid index, AttrNumber column, Oid relid);
static void tell_publisher(const CqrsMasterRow *row);
static void warn_if_unconfigured(void);
static Relation lock_master(const char *cqrs_id, CqrsMasterRow **row);
static void refuse_own_changes(Oid relid);

/*
 * cqrs_register(relation regclass, cqrs_id text, ...) RETURNS text; the
 * options follow in the order of CqrsOption.
 */
Datum
cqrs_register(PG_FUNCTION_ARGS)
{
	CqrsMasterRow row = {0};
	CqrsMasterRow *existing;
	Oid			relid;
	Relation	rel;

	PreventCommandIfReadOnly("cqrs_register()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("relation must not be null"),
				 errdetail("The argument names the table that becomes a master."),
				 errhint("Name a table, as in cqrs_register('author').")));
	relid = PG_GETARG_OID(0);

	/* Before the lock, so that only the owner can make writers wait. */
	cqrs_rights_check_table(relid);
	rel = table_open(relid, ShareRowExclusiveLock);
	cqrs_eligible_check_not_partition(rel);
	cqrs_eligible_check_table(rel);
	cqrs_rights_check_table(relid);
	cqrs_eligible_check_partitions(relid);

	row.relid = relid;
	row.cqrs_id = PG_ARGISNULL(1) ? pstrdup(RelationGetRelationName(rel)) :
		text_to_cstring(PG_GETARG_TEXT_PP(1));
	for (int i = 0; i < CQRS_NOPTIONS; i++)
		cqrs_option_set(&cqrs_options_master, row.options, i,
						fcinfo->args[2 + i]);

	cqrs_name_check_id(row.cqrs_id);
	cqrs_rights_check_exchange(NULL, cqrs_master_text(&row, CQRS_OPTION_EXCHANGE));
	existing = cqrs_master_read(row.cqrs_id, true);
	if (existing != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("master \"%s\" already exists", row.cqrs_id),
				 errdetail("The existing master is one of table \"%s\".",
						   get_rel_name(existing->relid)),
				 errhint("Choose another cqrs_id, or use cqrs_alter() to change the master.")));
	table_close(rel, NoLock);

	refuse_own_changes(relid);
	cqrs_triggers_add_columns(relid);
	check_definition(relid, &row);
	check_key(relid, &row);
	check_revision_default(relid);
	check_same_replication(&row);
	cqrs_triggers_create(relid);
	cqrs_triggers_enable(&row);
	cqrs_master_insert(&row);
	check_former(&row);
	cqrs_loaded_forget(row.cqrs_id);
	CacheInvalidateRelcacheByRelid(relid);
	CommandCounterIncrement();
	begin_capture(relid);
	tell_publisher(&row);
	warn_if_unconfigured();
	cqrs_function_warn_foreign(cqrs_guarded_hook_foreign(list_make1(&row)), NIL);

	PG_RETURN_TEXT_P(cstring_to_text(row.cqrs_id));
}

/* cqrs_unregister(cqrs_id text) RETURNS void */
Datum
cqrs_unregister(PG_FUNCTION_ARGS)
{
	char	   *cqrs_id = cqrs_master_id_arg(fcinfo, 0);
	CqrsMasterRow *row;
	Relation	rel;
	Oid			relid;

	PreventCommandIfReadOnly("cqrs_unregister()");
	rel = lock_master(cqrs_id, &row);
	relid = RelationGetRelid(rel);
	table_close(rel, NoLock);
	refuse_own_changes(relid);
	cqrs_master_delete(cqrs_id);
	cqrs_former_note(cqrs_id, cqrs_rights_table_owner(relid));
	CacheInvalidateRelcacheByRelid(relid);
	CommandCounterIncrement();
	if (cqrs_master_read_all(relid) == NIL)
		cqrs_triggers_drop(relid);
	cqrs_wake_want_at_commit(CQRS_WORKER_PUBLISHER);
	PG_RETURN_VOID();
}

/* cqrs_alter(cqrs_id text, options jsonb) RETURNS void */
Datum
cqrs_alter(PG_FUNCTION_ARGS)
{
	char	   *cqrs_id = cqrs_master_id_arg(fcinfo, 0);
	CqrsMasterRow *row;
	Relation	rel;
	Oid			relid;
	char	   *exchange;
	List	   *foreign;

	PreventCommandIfReadOnly("cqrs_alter()");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("options must not be null"),
				 errdetail("The options say what to change about the master."),
				 errhint("Name options with their values, as in {\"meta\": null}.")));
	rel = lock_master(cqrs_id, &row);
	relid = RelationGetRelid(rel);
	table_close(rel, NoLock);
	exchange = cqrs_master_text(row, CQRS_OPTION_EXCHANGE);
	foreign = cqrs_guarded_hook_foreign(list_make1(row));
	cqrs_option_set_json(&cqrs_options_master, row->options,
						 PG_GETARG_JSONB_P(1));
	cqrs_rights_check_exchange(exchange, cqrs_master_text(row, CQRS_OPTION_EXCHANGE));
	refuse_own_changes(relid);
	check_definition(relid, row);
	cqrs_master_update(row);
	share_replication(row);
	cqrs_triggers_enable(row);
	CacheInvalidateRelcacheByRelid(relid);
	begin_capture(relid);
	tell_publisher(row);
	cqrs_function_warn_foreign(cqrs_guarded_hook_foreign(list_make1(row)),
							   foreign);
	PG_RETURN_VOID();
}

/* Check that a master fits its table and functions. */
static void
check_definition(Oid relid, const CqrsMasterRow *row)
{
	Relation	rel = table_open(relid, NoLock);
	CqrsRelation relation = {0};
	CqrsHookScope scope;

	cqrs_relation_bind(rel, list_make1(unconstify(CqrsMasterRow *, row)),
					   &relation);
	/* Names are looked up as while messages are made. */
	cqrs_hook_enter(&scope, rel, &relation);
	cqrs_hook_check(&relation, linitial(relation.masters));
	cqrs_hook_leave(&scope);
	table_close(rel, NoLock);
}

/* Check that rows can be found by their keys, as messages have them. */
static void
check_key(Oid relid, const CqrsMasterRow *row)
{
	Relation	rel = table_open(relid, NoLock);
	CqrsRelation relation = {0};

	cqrs_relation_bind(rel, list_make1(unconstify(CqrsMasterRow *, row)),
					   &relation);
	cqrs_key_type_check(rel, &relation);
	table_close(rel, NoLock);
}

/*
 * All new rows must get the same revision: the result of nextval() or random()
 * is no count of changes.
 */
static void
check_revision_default(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	Node	   *value = build_column_default(rel,
											 get_attnum(relid, "cqrs_revision"));

	if (value != NULL && contain_volatile_functions(value))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_DEFINITION),
				 errmsg("column \"cqrs_revision\" of table \"%s\" has a VOLATILE default",
						RelationGetRelationName(rel)),
				 errdetail("The revision of a new row is its default, and grows with each change."),
				 errhint("Use ALTER TABLE ... ALTER COLUMN cqrs_revision SET DEFAULT 0.")));
	table_close(rel, NoLock);
}

/* A table has one set of triggers, so its masters agree on "replication". */
static void
check_same_replication(const CqrsMasterRow *row)
{
	char	   *value = cqrs_master_text(row, CQRS_OPTION_REPLICATION);
	ListCell   *lc;

	foreach(lc, cqrs_master_read_all(row->relid))
	{
		CqrsMasterRow *other = lfirst(lc);

		if (!cqrs_master_is(other, CQRS_OPTION_REPLICATION, value))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"replication\" differs from that of master \"%s\" of the same table",
							other->cqrs_id),
					 errdetail("Masters of one table share its triggers, which fire by this option."),
					 errhint("Use \"%s\"; cqrs_alter() changes it for all masters of a table.",
							 cqrs_master_text(other, CQRS_OPTION_REPLICATION))));
	}
}

/* Give all masters of the table the "replication" of this one. */
static void
share_replication(const CqrsMasterRow *row)
{
	ListCell   *lc;

	CommandCounterIncrement();
	foreach(lc, cqrs_master_read_all(row->relid))
	{
		CqrsMasterRow *other = lfirst(lc);

		if (strcmp(other->cqrs_id, row->cqrs_id) == 0)
			continue;
		other->options[CQRS_OPTION_REPLICATION] =
			row->options[CQRS_OPTION_REPLICATION];
		cqrs_master_update(other);
	}
}

/*
 * Messages of a former master of the same name become messages of the new one
 * (former.c).  If the owner of its table is another role without the privileges of
 * the former owner, only a caller who has these privileges may decide that.
 */
static void
check_former(const CqrsMasterRow *row)
{
	Oid			former = cqrs_former_forget(row->cqrs_id);
	Oid			owner = cqrs_rights_table_owner(row->relid);
	CqrsRemains remains;
	const char *role;

	if (!OidIsValid(former) || has_privs_of_role(owner, former))
		return;
	remains = cqrs_former_remains(row->cqrs_id);
	if (remains == CQRS_REMAINS_NONE)
		return;
	role = GetUserNameFromId(former, true);
	if (role == NULL)
		role = psprintf("%u", former);
	if (has_privs_of_role(GetUserId(), former))
		ereport(WARNING,
				(errmsg("messages of the former master \"%s\" belong to role \"%s\" from now on",
						row->cqrs_id, GetUserNameFromId(owner, false)),
				 remains == CQRS_REMAINS_PENDING ?
				 errdetail("Messages are pending, and belonged to role \"%s\", which owned the table of the former master.",
						   role) :
				 errdetail("Messages are parked, and belonged to role \"%s\", which owned the table of the former master.",
						   role),
				 errhint("If role \"%s\" is not to have them, roll back, and choose another cqrs_id.",
						 GetUserNameFromId(owner, false))));
	else
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("messages of a former master \"%s\" belong to role \"%s\"",
						row->cqrs_id, role),
				 remains == CQRS_REMAINS_PENDING ?
				 errdetail("Messages are pending. Whoever has a master of that name could park them.") :
				 errdetail("Messages are parked. Whoever has a master of that name could send them again, and see their rows."),
				 remains == CQRS_REMAINS_PENDING ?
				 errhint("Choose another cqrs_id, or wait until the messages are published. A superuser, or a role with the privileges of role \"%s\", can register the table at once.",
						 role) :
				 errhint("Choose another cqrs_id, or have a superuser delete the messages from cqrs.parked. A superuser, or a role with the privileges of role \"%s\", can register the table at once.",
						 role)));
}

/* Note changes from now on, and none that were made before. */
static void
begin_capture(Oid relid)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		Relation	rel = table_open(lfirst_oid(lc), NoLock);

		Assert(CheckRelationLockedByMe(rel, ShareRowExclusiveLock, true));	/* I17 */
		if (RELKIND_HAS_STORAGE(rel->rd_rel->relkind))
			cqrs_capture_begin_late(rel);
		table_close(rel, NoLock);
	}
}

/*
 * cqrs.follow_partitions(relation regclass) RETURNS void: see the SQL script.
 *
 * An ALTER TABLE that adds no partition is none of its business.  When a dump
 * is restored by several sessions, such a command may run when the partition
 * has its row triggers and the statement trigger in the dump is still to come.
 */
Datum
cqrs_sql_follow_partitions(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	List	   *masters;
	Oid			root = cqrs_relation_root(relid);
	ListCell   *lc;

	if (get_rel_relkind(root) != RELKIND_PARTITIONED_TABLE ||
		!has_new_partition(relid))
		PG_RETURN_VOID();
	masters = cqrs_master_read_all(root);
	if (masters == NIL)
		PG_RETURN_VOID();

	cqrs_eligible_check_partitions(relid);
	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
		cqrs_triggers_follow(lfirst_oid(lc), linitial(masters));
	PG_RETURN_VOID();
}

/*
 * Whether this transaction has made the table a partition, or has given it
 * one.
 */
static bool
has_new_partition(Oid relid)
{
	return has_new_row(InheritsRelidSeqnoIndexId,
					   Anum_pg_inherits_inhrelid, relid) ||
		has_new_row(InheritsParentIndexId, Anum_pg_inherits_inhparent, relid);
}

/* Whether a row of pg_inherits is of this transaction. */
static bool
has_new_row(Oid index, AttrNumber column, Oid relid)
{
	Relation	inherits = table_open(InheritsRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&key, column, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(inherits, index, true, NULL, 1, &key);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
		found = TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
	systable_endscan(scan);
	table_close(inherits, AccessShareLock);
	return found;
}

/*
 * Have the publisher look at the masters again (publish/announce.c), and warn if
 * another database publishes the same as this one does.
 */
static void
tell_publisher(const CqrsMasterRow *row)
{
	const char *exchange = cqrs_master_text(row, CQRS_OPTION_EXCHANGE);
	Oid			other = cqrs_claim_find_other(cqrs_claim_make(row->cqrs_id,
															  exchange));
	char	   *name = OidIsValid(other) ? get_database_name(other) : NULL;

	cqrs_wake_want_at_commit(CQRS_WORKER_PUBLISHER);
	if (name != NULL)
		ereport(WARNING,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("database \"%s\" publishes with cqrs_id \"%s\" to the same exchange, too",
						name, row->cqrs_id),
				 errdetail("Replicas cannot tell the messages of the two databases apart, and mix up their rows."),
				 errhint("Choose another cqrs_id or exchange, or give one of the databases a \"cqrs.exchange\" or \"cqrs.url\" of its own by ALTER DATABASE.")));
}

/* Warn once in a session; otherwise the outbox would grow unnoticed. */
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
			 errdetail("Changes wait in the outbox until \"cqrs.url\" is set."),
			 errhint("Use ALTER SYSTEM SET cqrs.url = 'amqp://user@host:port/vhost' and reload the configuration. The password is read from the file of \"cqrs.password_file\".")));
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

	cqrs_rights_check_table(relid);
	rel = table_open(relid, ShareRowExclusiveLock);
	cqrs_rights_check_table(relid);
	(void) find_all_inheritors(relid, ShareRowExclusiveLock, NULL);
	*row = cqrs_master_read(cqrs_id, false);
	if ((*row)->relid != relid)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("master \"%s\" was changed concurrently", cqrs_id),
				 errdetail("The master belongs to another table now."),
				 errhint("Call the function again.")));
	return rel;
}

/*
 * Changes become messages when the transaction commits.  Changes made under
 * the old definition must not be sent, or dropped, under the new one.
 */
static void
refuse_own_changes(Oid relid)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		if (cqrs_changeset_has_notes(lfirst_oid(lc)))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot change masters of table \"%s\" because it has unpublished changes in this transaction",
							get_rel_name(relid)),
					 errhint("Commit the changes first, or send them with cqrs_flush().")));
	}
}
