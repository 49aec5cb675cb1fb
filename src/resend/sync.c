/*-------------------------------------------------------------------------
 *
 * sync.c
 *	  cqrs_sync: sends the current state of rows, for replicas that lack them.
 *
 * A query chooses the rows, with the caller's rights, row security included.
 * cqrs_sync then only notes where the rows are; their state is read under lock
 * while the transaction commits (resolve.c).  A snapshot is kept until then,
 * so that the noted versions are not pruned and their places not reused.
 * Since cqrs_sync reads and locks rows, it needs the privileges of SELECT FOR
 * SHARE: SELECT and UPDATE.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "base/limits.h"
#include "capture/changeset.h"
#include "capture/commit.h"
#include "master/condition.h"
#include "master/locate.h"
#include "master/relation.h"
#include "resend/sync.h"

PG_FUNCTION_INFO_V1(cqrs_sync_filter);
PG_FUNCTION_INFO_V1(cqrs_sync_row);

#define FETCH_ROWS	1000

/* Where a row is. */
typedef struct RowAddress
{
	Oid			relid;			/* table or partition */
	ItemPointerData tid;
} RowAddress;

static void check_privileges(Oid relid);
static void check_no_row_security(Relation rel);
static bool find_place(Relation rel, const CqrsRelation *relation,
					   HeapTuple tuple, void *arg);
static uint16 resent_target(Oid relid, const char *cqrs_id,
							const char *queue);

/* cqrs_sync(cqrs_id text, filter text, queue text) RETURNS bigint */
Datum
cqrs_sync_filter(PG_FUNCTION_ARGS)
{
	char	   *cqrs_id;
	char	   *filter = PG_ARGISNULL(1) ? NULL :
	text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *queue = PG_ARGISNULL(2) ? NULL :
	text_to_cstring(PG_GETARG_TEXT_PP(2));
	CqrsRelation *relation;
	CqrsMaster *master;
	Relation	rel;
	CqrsQuery  *query;
	int64		count = 0;

	cqrs_id = cqrs_master_id_arg(fcinfo, 0);

	PreventCommandIfReadOnly("cqrs_sync()");
	cqrs_sync_check_queue(queue);
	cqrs_sync_check_filter(filter);
	rel = cqrs_sync_open(cqrs_id, &relation, &master);
	if (master->produce)
	{
		query = cqrs_query_begin(cqrs_sync_query(rel, CQRS_SYNC_ROW_ADDRESS, filter),
								 0, NULL, NULL);
		count = cqrs_sync_note_rows(cqrs_id, queue, query, NULL, NULL);
		cqrs_query_end(query);
	}
	table_close(rel, NoLock);
	PG_RETURN_INT64(count);
}

/* cqrs_sync(row record, queue text) RETURNS boolean */
Datum
cqrs_sync_row(PG_FUNCTION_ARGS)
{
	char	   *queue = PG_ARGISNULL(1) ? NULL :
	text_to_cstring(PG_GETARG_TEXT_PP(1));
	HeapTupleData tuple;
	Oid			relid;
	CqrsRelation *relation;
	Relation	rel;
	RowAddress	address;
	bool		found;
	bool		any = false;
	ListCell   *lc;

	PreventCommandIfReadOnly("cqrs_sync()");
	if (PG_ARGISNULL(0))
		PG_RETURN_BOOL(false);
	cqrs_sync_check_queue(queue);

	relid = cqrs_locate_record(PG_GETARG_HEAPTUPLEHEADER(0), &tuple);
	check_privileges(relid);
	rel = table_open(relid, RowShareLock);
	check_no_row_security(rel);
	relation = cqrs_relation_get(relid);
	found = relation != NULL &&
		cqrs_locate_row(rel, &tuple, false, find_place, &address);
	foreach(lc, found ? relation->masters : NIL)
	{
		CqrsMaster *master = lfirst(lc);

		if (!master->produce)
			continue;
		cqrs_commit_keep_snapshot();
		cqrs_commit_schedule();
		cqrs_changeset_note(resent_target(address.relid, master->cqrs_id, queue),
							&address.tid);
		any = true;
	}
	table_close(rel, NoLock);
	PG_RETURN_BOOL(any);
}

void
cqrs_sync_check_queue(const char *queue)
{
	if (queue == NULL)
		return;
	if (queue[0] == '\0' || strlen(queue) > CQRS_SYNC_QUEUE_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid queue \"%s\"", queue),
				 errdetail("The name of a queue must have 1 to %d bytes.",
						   CQRS_SYNC_QUEUE_BYTES),
				 errhint("Name the queue of one replica, or use NULL for all replicas.")));
}

void
cqrs_sync_check_filter(const char *filter)
{
	if (filter != NULL)
		(void) cqrs_condition_parse(filter, "filter");
}

Relation
cqrs_sync_open(const char *cqrs_id, CqrsRelation **relation,
			   CqrsMaster **master)
{
	check_privileges(cqrs_master_read(cqrs_id, false)->relid);
	return cqrs_relation_open(cqrs_id, RowShareLock, relation, master);
}

/*
 * The whole row is sent, or passed to functions of the owner, so SELECT on
 * some columns is not enough.  Called before the table is locked.
 */
static void
check_privileges(Oid relid)
{
	bool		locks = pg_class_aclcheck(relid, GetUserId(),
										  ACL_UPDATE) == ACLCHECK_OK;

	if (locks &&
		pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for table %s", get_rel_name(relid)),
			 locks ?
			 errdetail("cqrs_sync() reads the rows that it sends, which needs the privilege SELECT.") :
			 errdetail("cqrs_sync() locks the rows that it sends, which needs the privilege UPDATE."),
			 errhint("Have the owner of the table grant the privilege.")));
}

/*
 * Refuse row security: a row is found by its key, which any caller can make
 * up.
 */
static void
check_no_row_security(Relation rel)
{
	if (check_enable_rls(RelationGetRelid(rel), InvalidOid, false) != RLS_ENABLED)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot sync single rows of table \"%s\", which has row security for role \"%s\"",
					RelationGetRelationName(rel),
					GetUserNameFromId(GetUserId(), false)),
			 errhint("Use cqrs_sync(cqrs_id, filter), which obeys the policies of the table.")));
}

char *
cqrs_sync_table(Relation rel)
{
	/* A table without partitions may have got inheritance children. */
	return psprintf("%s%s",
					cqrs_relation_has_parts(rel) ? "" : "ONLY ",
					quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
											   RelationGetRelationName(rel)));
}

char *
cqrs_sync_query(Relation rel, const char *columns, const char *filter)
{
	const char *query = psprintf("SELECT %s FROM %s AS %s", columns,
								 cqrs_sync_table(rel),
								 quote_identifier(RelationGetRelationName(rel)));

	/* The line break ends a comment at the end of the filter. */
	return filter == NULL ? pstrdup(query) :
		psprintf("%s WHERE (%s\n)", query, filter);
}

int64
cqrs_sync_note_rows(const char *cqrs_id, const char *queue, CqrsQuery *query,
					CqrsSyncLastRow last_row, void *arg)
{
	Oid			last_relid = InvalidOid;
	uint16		target = 0;
	int64		count = 0;

	cqrs_commit_keep_snapshot();
	while (cqrs_query_fetch(query, FETCH_ROWS) > 0)
	{
		for (uint64 i = 0; i < query->nrows; i++)
		{
			bool		isnull;
			Oid			relid = DatumGetObjectId(heap_getattr(query->rows[i], 1,
															  query->desc,
															  &isnull));
			Datum		tid = heap_getattr(query->rows[i], 2, query->desc,
										   &isnull);

			if (relid != last_relid)
				target = resent_target(relid, cqrs_id, queue);
			last_relid = relid;
			cqrs_commit_schedule();
			cqrs_changeset_note(target, (ItemPointer) DatumGetPointer(tid));
		}
		count += query->nrows;
		if (last_row != NULL)
			last_row(query->rows[query->nrows - 1], query->desc, arg);
	}
	return count;
}

/*
 * Where the row with the key of "tuple" is now, as the active snapshot sees
 * it.  A row that a query returns does not carry its own address.
 */
static bool
find_place(Relation rel, const CqrsRelation *relation, HeapTuple tuple,
		   void *arg)
{
	RowAddress *address = arg;
	SysScanDesc scan;
	HeapTuple	found;

	scan = systable_beginscan(rel, relation->key_index, true,
							  GetActiveSnapshot(), relation->nkeys,
							  cqrs_relation_key_scan(rel, relation, tuple));
	found = systable_getnext(scan);
	if (HeapTupleIsValid(found))
	{
		address->relid = RelationGetRelid(rel);
		address->tid = found->t_self;
	}
	systable_endscan(scan);
	return HeapTupleIsValid(found);
}

/* The target for rows of a table or partition, by its OID. */
static uint16
resent_target(Oid relid, const char *cqrs_id, const char *queue)
{
	Relation	rel = table_open(relid, RowShareLock);
	uint16		target = cqrs_changeset_resent_target(rel, cqrs_id, queue);

	table_close(rel, NoLock);
	return target;
}
