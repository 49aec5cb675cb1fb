/*-------------------------------------------------------------------------
 *
 * sync_all.c
 *	  cqrs_sync_all: all rows of a master, in many short transactions.
 *
 * Each batch is a query for the rows that follow the last key in the order of
 * the primary key, and a transaction of its own.  So neither locks nor
 * snapshots last long, and finished batches survive an interruption.
 * Everything that could have changed between two batches, rights included, is
 * checked again.
 *
 * At most two batches are in the outbox at a time.  Batch N + 2 starts only
 * after the publisher has sent batch N and, because ids ascend, everything
 * older.  The procedure waits for that between two transactions, without a
 * snapshot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/home.h"
#include "compose/serialize.h"
#include "master/relation.h"
#include "outbox/published.h"
#include "resend/keys.h"
#include "resend/progress.h"
#include "resend/sync.h"

PG_FUNCTION_INFO_V1(cqrs_sync_all);

/* State that outlives the transactions of the procedure. */
typedef struct SyncAll
{
	char	   *cqrs_id;
	char	   *filter;			/* or NULL */
	char	   *queue;			/* or NULL */
	int			batch_size;
	int			nkeys;			/* of the last key; 0: there is none */
	Oid			types[INDEX_MAX_KEYS];
	Datum		key[INDEX_MAX_KEYS];
	char	   *key_text;		/* as JSON, or NULL */
	int64		rows;
	CqrsProgress progress;
	MemoryContext key_context;	/* holds the last key; reset with each */
} SyncAll;

/* The state of a batch while its rows are noted. */
typedef struct Batch
{
	SyncAll    *sync;
	Relation	rel;
	CqrsRelation *relation;
} Batch;

static void check_nonatomic(FunctionCallInfo fcinfo);
static SyncAll *read_arguments(FunctionCallInfo fcinfo);
static void begin(SyncAll *sync, Jsonb *after);
static void read_after(SyncAll *sync, Relation rel,
					   const CqrsRelation *relation, Jsonb *after);
static int64 sync_batch(SyncAll *sync);
static Relation open_table(SyncAll *sync, CqrsRelation **relation,
						   CqrsMaster **master);
static CqrsQuery *begin_query(SyncAll *sync, Relation rel,
							  const CqrsRelation *relation, bool limited);
static void keep_key(HeapTuple row, TupleDesc desc, void *arg);
static void set_key(SyncAll *sync, Relation rel, const CqrsRelation *relation,
					HeapTuple row, TupleDesc desc, int first_column);
static void wait_for_publisher(SyncAll *sync, const CqrsMark *mark);

/*
 * cqrs_sync_all(cqrs_id text, filter text, queue text, batch_size integer,
 * after jsonb)
 */
Datum
cqrs_sync_all(PG_FUNCTION_ARGS)
{
	SyncAll    *sync;
	CqrsMark	last = {0};
	int64		nrows;

	check_nonatomic(fcinfo);
	PreventCommandIfReadOnly("cqrs_sync_all()");
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	sync = read_arguments(fcinfo);
	begin(sync, PG_ARGISNULL(4) ? NULL : PG_GETARG_JSONB_P(4));
	do
	{
		CqrsMark	before_last = last;

		CHECK_FOR_INTERRUPTS();
		nrows = sync_batch(sync);
		sync->rows += nrows;
		SPI_commit();
		SPI_start_transaction();

		last = cqrs_published_mark();
		cqrs_progress_update(&sync->progress, CQRS_PROGRESS_READING,
							 sync->rows, 0, sync->key_text);
		if (nrows == sync->batch_size)
			wait_for_publisher(sync, &before_last);
	} while (nrows == sync->batch_size);
	cqrs_progress_end(&sync->progress);
	SPI_finish();
	PG_RETURN_VOID();
}

/* Raise an error if the procedure could not commit. */
static void
check_nonatomic(FunctionCallInfo fcinfo)
{
	if (fcinfo->context != NULL && IsA(fcinfo->context, CallContext) &&
		!castNode(CallContext, fcinfo->context)->atomic)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
			 errmsg("cqrs_sync_all() cannot run inside a transaction block"),
			 errdetail("The procedure commits after each batch."),
			 errhint("Call cqrs_sync_all() outside of a transaction block, or use cqrs_sync().")));
}

/* The result is in the context of SPI, which outlives a commit here. */
static SyncAll *
read_arguments(FunctionCallInfo fcinfo)
{
	SyncAll    *sync = palloc0(sizeof(SyncAll));

	sync->cqrs_id = cqrs_master_id_arg(fcinfo, 0);
	if (PG_ARGISNULL(3) || PG_GETARG_INT32(3) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"batch_size\" must be at least 1"),
				 errdetail("The batch size is the number of rows sent in one transaction."),
				 errhint("Leave out the argument for the default.")));
	if (!PG_ARGISNULL(1))
		sync->filter = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (!PG_ARGISNULL(2))
		sync->queue = text_to_cstring(PG_GETARG_TEXT_PP(2));
	sync->batch_size = PG_GETARG_INT32(3);
	sync->key_context = AllocSetContextCreate(CurrentMemoryContext,
											  "cqrs sync key",
											  ALLOCSET_SMALL_SIZES);
	cqrs_sync_check_queue(sync->queue);
	cqrs_sync_check_filter(sync->filter);
	return sync;
}

/* Find the key to begin after, and estimate the number of rows. */
static void
begin(SyncAll *sync, Jsonb *after)
{
	CqrsRelation *relation;
	CqrsMaster *master;
	Relation	rel;
	CqrsQuery  *query;
	double		estimate;

	PushActiveSnapshot(GetTransactionSnapshot());
	rel = open_table(sync, &relation, &master);
	if (after != NULL)
		read_after(sync, rel, relation, after);
	query = begin_query(sync, rel, relation, false);
	estimate = query->estimate;
	cqrs_query_end(query);
	cqrs_progress_begin(&sync->progress, CQRS_PROGRESS_SYNC, sync->cqrs_id,
						relation->relid, estimate);
	table_close(rel, NoLock);
	cqrs_home_warn();
	PopActiveSnapshot();
}

/* Begin behind the key that the user has given. */
static void
read_after(SyncAll *sync, Relation rel, const CqrsRelation *relation,
		   Jsonb *after)
{
	Jsonb	   *keys;
	QueryEnvironment *env;
	CqrsQuery  *query;
	char	   *text = JsonbToCString(NULL, &after->root, VARSIZE(after));

	keys = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											  CStringGetDatum(psprintf("[%s]", text))));
	if (!cqrs_keys_are_valid(keys, rel, relation))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"after\" is not a key of master \"%s\"",
						sync->cqrs_id),
				 errdetail("The value is %s.", text),
				 errhint("Give the key as the notices of cqrs_sync_all() show it.")));

	/*
	 * If several rows have keys with the same JSON, none of the rows may be
	 * left out.
	 */
	env = cqrs_keys_offer(keys, rel, relation);
	query = cqrs_query_begin_env(psprintf("SELECT %s FROM " CQRS_KEYS_SOURCE,
										  cqrs_keys_lowest(relation)),
								 0, NULL, NULL, env);
	(void) cqrs_query_fetch(query, 1);
	set_key(sync, rel, relation, query->rows[0], query->desc, 1);
	cqrs_query_end(query);
	cqrs_keys_withdraw(env);
}

/* Note the next rows; returns their number. */
static int64
sync_batch(SyncAll *sync)
{
	Batch		batch;
	CqrsMaster *master;
	int64		nrows = 0;

	PushActiveSnapshot(GetTransactionSnapshot());
	batch.sync = sync;
	batch.rel = open_table(sync, &batch.relation, &master);
	if (master->produce)
	{
		CqrsQuery  *query = begin_query(sync, batch.rel, batch.relation, true);

		nrows = cqrs_sync_note_rows(sync->cqrs_id, sync->queue, query,
									keep_key, &batch);
		cqrs_query_end(query);
	}
	table_close(batch.rel, NoLock);
	PopActiveSnapshot();
	return nrows;
}

/*
 * Lock the table for a batch.  Raises an error if the primary key is no longer
 * the one that keys were read for.
 */
static Relation
open_table(SyncAll *sync, CqrsRelation **relation, CqrsMaster **master)
{
	Relation	rel = cqrs_sync_open(sync->cqrs_id, relation, master);

	for (int i = 0; i < sync->nkeys; i++)
	{
		if (sync->nkeys != (*relation)->nkeys ||
			sync->types[i] != TupleDescAttr(RelationGetDescr(rel),
											(*relation)->keys[i].attnum - 1)->atttypid)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("primary key of table \"%s\" has changed while its rows were sent",
							RelationGetRelationName(rel)),
					 errhint("Call cqrs_sync_all() again.")));
	}
	return rel;
}

/* The rows after the last key: their places, and the key's columns. */
static CqrsQuery *
begin_query(SyncAll *sync, Relation rel, const CqrsRelation *relation,
			bool limited)
{
	const char *columns = cqrs_keys_columns(relation);
	StringInfoData query;

	initStringInfo(&query);
	appendStringInfoString(&query,
						   cqrs_sync_query(rel, psprintf(CQRS_SYNC_ROW_ADDRESS ", %s", columns),
										   sync->filter));
	if (sync->nkeys > 0)
		appendStringInfo(&query, " %s %s",
						 sync->filter != NULL ? "AND" : "WHERE",
						 cqrs_keys_above(rel, relation));
	if (limited)
		appendStringInfo(&query, " ORDER BY %s LIMIT %d", columns,
						 sync->batch_size);
	return cqrs_query_begin(query.data, sync->nkeys, sync->types, sync->key);
}

/* For cqrs_sync_note_rows(): the next batch begins after this row. */
static void
keep_key(HeapTuple row, TupleDesc desc, void *arg)
{
	Batch	   *batch = arg;

	set_key(batch->sync, batch->rel, batch->relation, row, desc, 3);
}

/* Set the last key from a row, whose key begins at column "first_column". */
static void
set_key(SyncAll *sync, Relation rel, const CqrsRelation *relation,
		HeapTuple row, TupleDesc desc, int first_column)
{
	MemoryContext caller;
	CqrsRow		values;
	StringInfoData text;
	int			guc_level = cqrs_serialize_pin_settings();

	MemoryContextReset(sync->key_context);
	caller = MemoryContextSwitchTo(sync->key_context);
	cqrs_row_init(&values, rel);
	sync->nkeys = relation->nkeys;
	for (int i = 0; i < relation->nkeys; i++)
	{
		AttrNumber	attnum = relation->keys[i].attnum;
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel),
											  attnum - 1);
		bool		isnull;
		Datum		value = SPI_getbinval(row, desc, first_column + i, &isnull);

		sync->types[i] = att->atttypid;
		sync->key[i] = datumCopy(value, att->attbyval, att->attlen);
		values.values[attnum - 1] = sync->key[i];
		values.nulls[attnum - 1] = false;
	}
	initStringInfo(&text);
	cqrs_serialize_key(&text, rel, relation, &values);
	sync->key_text = text.data;

	MemoryContextSwitchTo(caller);
	AtEOXact_GUC(false, guc_level);
}

/* Wait until messages up to a mark are confirmed; reports progress. */
static void
wait_for_publisher(SyncAll *sync, const CqrsMark *mark)
{
	TimestampTz deadline;

	do
	{
		deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											   CQRS_PROGRESS_INTERVAL_MS);
		cqrs_progress_update(&sync->progress, CQRS_PROGRESS_WAITING,
							 sync->rows, 0, sync->key_text);
	} while (!cqrs_published_wait(mark, deadline));
	cqrs_progress_update(&sync->progress, CQRS_PROGRESS_READING, sync->rows, 0,
						 sync->key_text);
}
