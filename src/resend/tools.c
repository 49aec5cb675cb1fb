/*-------------------------------------------------------------------------
 *
 * tools.c
 *	  Small functions about masters, rows, and published messages.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/guc.h"
#include "capture/commit.h"
#include "compose/hook.h"
#include "compose/instance_data.h"
#include "master/relation.h"
#include "outbox/published.h"
#include "resend/sync.h"

PG_FUNCTION_INFO_V1(cqrs_sql_relation);
PG_FUNCTION_INFO_V1(cqrs_to_json);
PG_FUNCTION_INFO_V1(cqrs_is_initial_save);
PG_FUNCTION_INFO_V1(cqrs_wait_published);
PG_FUNCTION_INFO_V1(cqrs_sql_check_master);
PG_FUNCTION_INFO_V1(cqrs_sql_url_is_set);

static bool find_initial(Relation rel, const CqrsRelation *relation,
						 HeapTuple tuple, void *arg);
static bool was_own(Relation rel, const CqrsRelation *relation, ScanKey keys,
					HeapTuple successor);

/* cqrs_relation(cqrs_id text) RETURNS regclass */
Datum
cqrs_sql_relation(PG_FUNCTION_ARGS)
{
	char	   *cqrs_id = text_to_cstring(PG_GETARG_TEXT_PP(0));

	PG_RETURN_OID(cqrs_master_read(cqrs_id, false)->relid);
}

/* cqrs_to_json(row record, cqrs_id text) RETURNS json */
Datum
cqrs_to_json(PG_FUNCTION_ARGS)
{
	HeapTupleHeader header = PG_GETARG_HEAPTUPLEHEADER(0);
	char	   *cqrs_id = text_to_cstring(PG_GETARG_TEXT_PP(1));
	HeapTupleData tuple;
	HeapTuple	row = &tuple;
	CqrsRelation *relation;
	CqrsMaster *master;
	Relation	rel = cqrs_relation_open(cqrs_id, AccessShareLock, &relation,
										 &master);
	CqrsHookScope scope;
	CqrsRow		values;
	char	   *json;

	if (cqrs_sync_record(header, &tuple) != relation->relid)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("row is not of the table of master \"%s\"", cqrs_id),
				 errdetail("It is of type %s, the table is \"%s\".",
						   format_type_be(HeapTupleHeaderGetTypeId(header)),
						   get_rel_name(relation->relid)),
				 errhint("See cqrs.master for the masters of a table.")));

	cqrs_instance_check_owner(relation, master);
	cqrs_row_init(&values, rel);
	cqrs_row_set(&values, rel, row);
	cqrs_row_check(rel, relation, &values);
	cqrs_hook_enter(&scope, rel, relation);
	cqrs_instance_data(rel, relation, master, &row, 1, &json);
	cqrs_hook_leave(&scope);
	table_close(rel, AccessShareLock);
	PG_RETURN_TEXT_P(cstring_to_text(json));
}

/* cqrs_is_initial_save(row record) RETURNS boolean */
Datum
cqrs_is_initial_save(PG_FUNCTION_ARGS)
{
	HeapTupleData tuple;
	Oid			relid = cqrs_sync_record(PG_GETARG_HEAPTUPLEHEADER(0),
										 &tuple);
	Relation	rel = table_open(relid, AccessShareLock);
	bool		initial = true;

	(void) cqrs_sync_find(rel, &tuple, true, find_initial, &initial);

	table_close(rel, AccessShareLock);
	PG_RETURN_BOOL(initial);
}

/*
 * Whether the current transaction has saved the row with the key of "tuple" at
 * most once.  A row that a query returns has no xmin, so the row is looked up,
 * with all changes of the transaction so far.  The result reveals nothing
 * about other transactions, so it needs no privileges.  Since the caller may
 * have none, no lock on the table is kept.
 */
static bool
find_initial(Relation rel, const CqrsRelation *relation, HeapTuple tuple,
			 void *arg)
{
	ScanKey		keys = cqrs_relation_key_scan(rel, relation, tuple);
	SysScanDesc scan;
	HeapTuple	found;
	bool	   *initial = arg;

	scan = systable_beginscan(rel, relation->key_index, true, SnapshotSelf,
							  relation->nkeys, keys);
	found = systable_getnext(scan);
	if (HeapTupleIsValid(found) &&
		TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(found->t_data)) &&
		(found->t_data->t_infomask & HEAP_UPDATED) != 0)
		*initial = !was_own(rel, relation, keys, found);
	systable_endscan(scan);
	return HeapTupleIsValid(found);
}

/*
 * Whether the current transaction has also made the version that "successor"
 * has replaced.  No version of the current transaction can have been pruned.
 * If the key has changed, no such version is found: for a consumer, the row
 * with that key is new.
 */
static bool
was_own(Relation rel, const CqrsRelation *relation, ScanKey keys,
		HeapTuple successor)
{
	ItemPointerData tid = successor->t_self;
	SysScanDesc scan = systable_beginscan(rel, relation->key_index, true,
										  SnapshotAny, relation->nkeys, keys);
	HeapTuple	found;
	bool		own = false;

	while (!own && HeapTupleIsValid(found = systable_getnext(scan)))
		own = !ItemPointerEquals(&found->t_self, &tid) &&
			ItemPointerEquals(&found->t_data->t_ctid, &tid) &&
			TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(found->t_data));
	systable_endscan(scan);
	return own;
}

/* cqrs_wait_published(timeout interval) RETURNS boolean */
Datum
cqrs_wait_published(PG_FUNCTION_ARGS)
{
	TimestampTz deadline = DT_NOEND;
	CqrsMark	mark = cqrs_published_mark();

	if (cqrs_commit_has_unsent())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot wait for messages of the current transaction"),
				 errdetail("Messages are published only after their transaction has committed."),
				 errhint("Call cqrs_wait_published() after COMMIT.")));
	if (!PG_ARGISNULL(0))
		deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
														   TimestampTzGetDatum(GetCurrentTimestamp()),
														   PG_GETARG_DATUM(0)));
	PG_RETURN_BOOL(cqrs_published_wait(&mark, deadline));
}

/*
 * cqrs.check_master(cqrs_id text) RETURNS void: raises the error that a write
 * to the master's table would raise.
 */
Datum
cqrs_sql_check_master(PG_FUNCTION_ARGS)
{
	CqrsRelation *relation;
	CqrsMaster *master;
	Relation	rel = cqrs_relation_open(text_to_cstring(PG_GETARG_TEXT_PP(0)),
										 AccessShareLock, &relation, &master);
	CqrsHookScope scope;

	cqrs_hook_enter(&scope, rel, relation);
	cqrs_hook_check(relation, master);
	cqrs_hook_check_settings(relation, master);
	cqrs_hook_leave(&scope);
	table_close(rel, AccessShareLock);
	PG_RETURN_VOID();
}

/* cqrs.url_is_set() RETURNS boolean */
Datum
cqrs_sql_url_is_set(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(cqrs_guc_url() != NULL);
}
