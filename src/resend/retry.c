/*-------------------------------------------------------------------------
 *
 * retry.c
 *	  cqrs_retry_parked: sends parked messages again.
 *
 * After a message was parked, its row may have been changed, deleted or
 * inserted anew, and messages of these changes may have been sent.  So the
 * row's current state is sent and not the parked message: a row that exists
 * goes out as a SYNC, read under lock while the transaction commits, as all
 * SYNCs are.  For a row that is gone nothing is sent, unless its DELETE was
 * parked.  If only the message was kept, the DELETE is sent with the exchange
 * and routing key that its master has now.  If the row was kept with it, the
 * DELETE is made from that row.  A lock keeps the row from being inserted anew
 * meanwhile.
 *
 * A parked message belongs to the owner of the table that has a master of its name
 * now.  That this is nobody else than the owner at the time of parking, unless
 * somebody with the rights of both has decided so, is the business of
 * cqrs_register() (outbox/former.c).
 *
 * Everything that touches keys and rows runs with the rights of the table's
 * owner: the owner's types can have functions, and a superuser may be the
 * caller.
 *
 * Two concurrent calls would send messages twice.  So a call locks the tables
 * whose messages it sends, by a lock tag of its own, which no SQL command
 * takes.  A caller who may not send a table's messages does not lock it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/objects.h"
#include "capture/changeset.h"
#include "capture/commit.h"
#include "compose/compose.h"
#include "compose/hook.h"
#include "master/master.h"
#include "master/relation.h"
#include "outbox/parked.h"
#include "resend/keys.h"
#include "resend/sync.h"

PG_FUNCTION_INFO_V1(cqrs_retry_parked);

static List *lock_tables(const char *cqrs_id, ArrayType *ids);
static Oid	table_of(const CqrsParked *parked);
static List *chosen(const char *cqrs_id, ArrayType *ids);
static bool may_retry(const char *cqrs_id, bool must);
static void retry(CqrsParked *parked);
static bool note_row(Relation rel, const CqrsRelation *relation,
					 const CqrsMessage *message);
static void check_no_row_security(Relation rel);
static void send_deleted(Relation rel, const CqrsRelation *relation,
						 CqrsMaster *master, const CqrsParked *parked);
static HeapTupleHeader row_of_json(Relation rel, const char *json);

/* cqrs_retry_parked(cqrs_id text, ids bigint[]) RETURNS bigint */
Datum
cqrs_retry_parked(PG_FUNCTION_ARGS)
{
	char	   *cqrs_id = PG_ARGISNULL(0) ? NULL :
	text_to_cstring(PG_GETARG_TEXT_PP(0));
	ArrayType  *ids = PG_ARGISNULL(1) ? NULL : PG_GETARG_ARRAYTYPE_P(1);
	List	   *tables;
	Relation	rel;
	List	   *list;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cqrs parked message",
												  ALLOCSET_DEFAULT_SIZES);
	int64		count = 0;
	ListCell   *lc;

	PreventCommandIfReadOnly("cqrs_retry_parked()");
	if (cqrs_id != NULL)
		(void) may_retry(cqrs_id, true);

	tables = lock_tables(cqrs_id, ids);
	if (tables == NIL)
		PG_RETURN_INT64(0);

	rel = table_open(cqrs_objects_get(false)->parked, RowExclusiveLock);
	list = chosen(cqrs_id, ids);
	foreach(lc, list)
	{
		CqrsParked *parked = lfirst(lc);
		MemoryContext caller = MemoryContextSwitchTo(context);

		CHECK_FOR_INTERRUPTS();
		if (list_member_oid(tables, table_of(parked)) &&
			cqrs_parked_read(rel, parked))
		{
			retry(parked);
			CatalogTupleDelete(rel, &parked->tid);
			count++;
		}
		MemoryContextSwitchTo(caller);
		MemoryContextReset(context);
	}
	table_close(rel, NoLock);
	PG_RETURN_INT64(count);
}

/*
 * Lock the tables of the selected messages against other calls; returns their
 * OIDs.  The locks are taken in the order of the OIDs.
 */
static List *
lock_tables(const char *cqrs_id, ArrayType *ids)
{
	Oid			class = cqrs_objects_get(false)->parked;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cqrs parked messages",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	List	   *messages = chosen(cqrs_id, ids);
	List	   *tables = NIL;
	ListCell   *lc;

	MemoryContextSwitchTo(caller);
	foreach(lc, messages)
	{
		Oid			relid = table_of(lfirst(lc));

		if (OidIsValid(relid))
			tables = list_append_unique_oid(tables, relid);
	}
	MemoryContextDelete(context);

	list_sort(tables, list_oid_cmp);
	foreach(lc, tables)
	{
		LockDatabaseObject(class, lfirst_oid(lc), 0, AccessExclusiveLock);
		/* Renamed columns are renamed in parked messages as well. */
		LockRelationOid(lfirst_oid(lc), RowShareLock);
	}
	return tables;
}

/* The table of a parked message's master, InvalidOid if the master is gone. */
static Oid
table_of(const CqrsParked *parked)
{
	CqrsMasterRow *row = cqrs_master_read(parked->message.cqrs_id, true);

	return row == NULL ? InvalidOid : row->relid;
}

/* The selected parked messages that the user may send. */
static List *
chosen(const char *cqrs_id, ArrayType *ids)
{
	List	   *all;
	List	   *result = NIL;
	ListCell   *lc;
	Datum	   *elems = NULL;
	bool	   *nulls = NULL;
	int			nelems = 0;

	if (ids != NULL)
		deconstruct_array(ids, INT8OID, sizeof(int64), FLOAT8PASSBYVAL,
						  TYPALIGN_DOUBLE, &elems, &nulls, &nelems);
	all = cqrs_parked_list();
	foreach(lc, all)
	{
		CqrsParked *parked = lfirst(lc);
		bool		meant = ids == NULL;

		CHECK_FOR_INTERRUPTS();
		if (cqrs_id != NULL && strcmp(parked->message.cqrs_id, cqrs_id) != 0)
			continue;
		for (int i = 0; i < nelems && !meant; i++)
			meant = !nulls[i] && DatumGetInt64(elems[i]) == parked->message.id;
		if (meant && may_retry(parked->message.cqrs_id, ids != NULL))
			result = lappend(result, parked);
	}
	return result;
}

/* Whether the user owns the table of a master, which must be there. */
static bool
may_retry(const char *cqrs_id, bool must)
{
	CqrsMasterRow *row = cqrs_master_read(cqrs_id, !must);

	if (row == NULL)
		return false;
	if (cqrs_owns_relation(row->relid, GetUserId()))
		return true;
	if (must)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of the table of master \"%s\"",
						cqrs_id),
				 errdetail("Parked messages are made again with the rights of the owner."),
				 errhint("Have the owner or a superuser call the function.")));
	return false;
}

/* Send a parked message again. */
static void
retry(CqrsParked *parked)
{
	const CqrsMessage *message = &parked->message;
	bool		deletes = message->signal == CQRS_SIGNAL_DELETE;
	CqrsRelation *relation;
	CqrsMaster *master;
	LOCKMODE	lock = deletes ? ShareRowExclusiveLock : RowShareLock;
	Relation	rel = cqrs_relation_open(message->cqrs_id, lock, &relation,
										 &master);
	CqrsHookScope scope;

	if (!master->produce)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("master \"%s\" produces no messages",
						message->cqrs_id),
				 errhint("Use cqrs_alter() to set \"produce\" to true.")));
	(void) find_all_inheritors(relation->relid, lock, NULL);
	cqrs_hook_enter_as_owner(&scope, relation);
	check_no_row_security(rel);
	PushActiveSnapshot(GetLatestSnapshot());
	if (!note_row(rel, relation, message) && deletes)
		send_deleted(rel, relation, master, parked);
	PopActiveSnapshot();
	cqrs_hook_leave(&scope);
	table_close(rel, NoLock);
}

/* Refuse row security: a hidden row would be taken for deleted. */
static void
check_no_row_security(Relation rel)
{
	if (check_enable_rls(RelationGetRelid(rel), InvalidOid, true) != RLS_ENABLED)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot send parked messages of table \"%s\", which has row security for its owner",
					RelationGetRelationName(rel)),
			 errdetail("Rows that the policies of the table hide would be taken for deleted."),
			 errhint("Use ALTER TABLE ... NO FORCE ROW LEVEL SECURITY for the time being.")));
}

/* Note the row of a message for a SYNC; false when there is none. */
static bool
note_row(Relation rel, const CqrsRelation *relation,
		 const CqrsMessage *message)
{
	Datum		keys = DirectFunctionCall1(jsonb_in,
										   CStringGetDatum(psprintf("[%s]",
																	message->instance_pk)));
	QueryEnvironment *env;
	CqrsQuery  *query;
	int64		found;

	/* The master may have been registered anew, with another primary key. */
	if (!cqrs_keys_are_valid(DatumGetJsonbP(keys), rel, relation))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("parked message " INT64_FORMAT " has no key of table \"%s\"",
						message->id, RelationGetRelationName(rel)),
				 errdetail("The key of the message is %s, and the primary key of the table has other columns now.",
						   message->instance_pk),
				 errhint("Name the other messages in \"ids\", or delete this one from cqrs.parked.")));

	env = cqrs_keys_offer(DatumGetJsonbP(keys), rel, relation);
	query = cqrs_query_begin_env(psprintf("SELECT r.tableoid, r.ctid FROM " CQRS_KEYS_SOURCE ", %s AS r WHERE %s",
										  cqrs_sync_table(rel),
										  cqrs_keys_condition(rel, relation)),
								 0, NULL, NULL, env);
	found = cqrs_sync_note_rows(message->cqrs_id, message->queue, query, NULL,
								NULL);
	cqrs_query_end(query);
	cqrs_keys_withdraw(env);
	return found > 0;
}

/* Send the DELETE of a row that is gone. */
static void
send_deleted(Relation rel, const CqrsRelation *relation, CqrsMaster *master,
			 const CqrsParked *parked)
{
	CqrsComposer *composer = cqrs_compose_begin();
	HeapTupleData tuple = {0};
	CqrsRow		row;

	cqrs_changeset_freeze();
	cqrs_compose_enter(composer, rel, relation);
	if (parked->row == NULL)
	{
		CqrsMessage message = parked->message;

		/*
		 * The old exchange or routing key may be the reason why the message
		 * was parked.
		 */
		message.exchange = master->message.exchange;
		message.routing_key = master->message.routing_key;
		cqrs_compose_again(composer, &message);
	}
	else
	{
		tuple.t_data = row_of_json(rel, parked->row);
		tuple.t_len = HeapTupleHeaderGetDatumLength(tuple.t_data);
		cqrs_row_init(&row, rel);
		cqrs_row_set(&row, rel, &tuple);
		cqrs_row_check(rel, relation, &row);
		cqrs_compose_master_deleted(composer, master, &row, &row);
	}
	if (cqrs_compose_end(composer) > 0)
		cqrs_commit_note_written();
	cqrs_changeset_thaw();
}

/* The row that was kept, with the columns that the table has now. */
static HeapTupleHeader
row_of_json(Relation rel, const char *json)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			type = JSONOID;
	Datum		value = CStringGetTextDatum(json);
	HeapTupleHeader header;
	bool		isnull;

	SPI_connect();
	(void) SPI_execute_with_args(psprintf("SELECT pg_catalog.json_populate_record(NULL::%s, $1)",
										  quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
																	 RelationGetRelationName(rel))),
								 1, &type, &value, NULL, true, 1);
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
						  &isnull);
	MemoryContextSwitchTo(caller);
	header = DatumGetHeapTupleHeaderCopy(value);
	SPI_finish();
	return header;
}
