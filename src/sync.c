/*-------------------------------------------------------------------------
 *
 * sync.c
 *	  cqrs_sync and cqrs_bulk_dump: rows as they are, for replicas that lack
 *	  them.
 *
 * Rows are chosen by a query that runs with the caller's rights, row security
 * included.  For cqrs_sync that only notes where they are; their state is read
 * under lock while the transaction commits (resolve.c).  A snapshot is kept
 * until then, so that the noted versions are not pruned and their places not
 * given to other rows.  Since it locks rows, cqrs_sync needs the privilege
 * that SELECT FOR SHARE needs, UPDATE.
 *
 * cqrs_bulk_dump returns a row a call from an open cursor: memory does not
 * depend on the size of the table.
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
#include "access/tupconvert.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "capture.h"
#include "catalog.h"
#include "changeset.h"
#include "condition.h"
#include "serialize.h"

PG_FUNCTION_INFO_V1(cqrs_sync_filter);
PG_FUNCTION_INFO_V1(cqrs_sync_row);
PG_FUNCTION_INFO_V1(cqrs_bulk_dump);

#define FETCH_ROWS	1000

/* AMQP 0-9-1: a routing key is a short string of 255 bytes. */
#define QUEUE_BYTES	128

/* A dump in progress; lives for all calls of the function. */
typedef struct Dump
{
	Relation	rel;
	CqrsMaster *master;
	CqrsRow		row;
	char	   *portal;			/* its name: it can be closed by others */
	text	   *lines[FETCH_ROWS];	/* read ahead */
	int			nlines;
	int			next;
	MemoryContext lines_context;	/* reset with each reading */
	MemoryContext row_context;	/* reset for each row */
} Dump;

static void check_queue(const char *queue);
static void check_may_sync(Relation rel);
static void check_no_row_security(Relation rel);
static char *ctid_query(Relation rel, const char *filter);
static const char *only(Relation rel);
static uint16 resent_target(Oid relid, const char *cqrs_id,
							const char *queue);
static char *qualified_name(Relation rel);
static Portal open_cursor(const char *name, const char *query);
static bool find_row(Relation rel, HeapTuple tuple, Oid *relid,
					 ItemPointer tid);
static bool find_row_in(Relation root, Oid relid, HeapTuple tuple,
						ItemPointer tid);
static void begin_dump(FunctionCallInfo fcinfo, FuncCallContext *context);
static bool fetch_lines(Dump *dump);
static text *dump_line(Dump *dump, Datum composite);
static void end_dump(Datum arg);

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
	Portal		portal;
	Oid			last = InvalidOid;
	uint16		target = 0;
	int64		count = 0;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("cqrs_id must not be null")));
	cqrs_id = text_to_cstring(PG_GETARG_TEXT_PP(0));

	PreventCommandIfReadOnly("cqrs_sync()");
	check_queue(queue);
	if (filter != NULL)
		(void) cqrs_condition_parse(filter, "filter");
	master = cqrs_catalog_master(cqrs_id, &relation);
	rel = table_open(relation->relid, RowShareLock);
	check_may_sync(rel);

	if (master->produce)
	{
		cqrs_capture_keep_snapshot();
		SPI_connect();
		portal = open_cursor(NULL, ctid_query(rel, filter));
		for (;;)
		{
			SPI_cursor_fetch(portal, true, FETCH_ROWS);
			if (SPI_processed == 0)
				break;
			for (uint64 i = 0; i < SPI_processed; i++)
			{
				HeapTuple	found = SPI_tuptable->vals[i];
				TupleDesc	desc = SPI_tuptable->tupdesc;
				bool		isnull;
				Oid			file = DatumGetObjectId(SPI_getbinval(found, desc,
																  1, &isnull));
				Datum		tid = SPI_getbinval(found, desc, 2, &isnull);

				if (file != last)
					target = resent_target(file, cqrs_id, queue);
				last = file;
				cqrs_changeset_note(target, (ItemPointer) DatumGetPointer(tid));
			}
			count += SPI_processed;
			SPI_freetuptable(SPI_tuptable);
		}
		SPI_cursor_close(portal);
		SPI_finish();
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
	HeapTupleHeader header;
	HeapTupleData tuple = {0};
	Oid			relid;
	CqrsRelation *relation;
	Relation	rel;
	Oid			found_in;
	ItemPointerData tid;
	bool		found;
	bool		any = false;
	ListCell   *lc;

	PreventCommandIfReadOnly("cqrs_sync()");
	if (PG_ARGISNULL(0))
		PG_RETURN_BOOL(false);
	check_queue(queue);

	header = PG_GETARG_HEAPTUPLEHEADER(0);
	relid = get_typ_typrelid(HeapTupleHeaderGetTypeId(header));
	relation = OidIsValid(relid) ? cqrs_catalog_relation(relid) : NULL;
	if (relation == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("row of type %s is not a row of a master's table",
						format_type_be(HeapTupleHeaderGetTypeId(header))),
				 errhint("Use it as in SELECT cqrs_sync(a) FROM author a, with the table's own rows.")));
	tuple.t_data = header;
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);

	rel = table_open(relid, RowShareLock);
	check_may_sync(rel);
	check_no_row_security(rel);
	found = find_row(rel, &tuple, &found_in, &tid);
	foreach(lc, relation->masters)
	{
		CqrsMaster *master = lfirst(lc);

		if (!found || !master->produce)
			continue;
		cqrs_capture_keep_snapshot();
		cqrs_changeset_note(resent_target(found_in, master->cqrs_id, queue),
							&tid);
		any = true;
	}
	table_close(rel, NoLock);
	PG_RETURN_BOOL(any);
}

/* cqrs_bulk_dump(cqrs_id text) RETURNS SETOF text */
Datum
cqrs_bulk_dump(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	Dump	   *dump;

	if (SRF_IS_FIRSTCALL())
	{
		context = SRF_FIRSTCALL_INIT();
		begin_dump(fcinfo, context);
		/* The first line names the master. */
		dump = context->user_fctx;
		SRF_RETURN_NEXT(context,
						PointerGetDatum(cstring_to_text(dump->master->cqrs_id)));
	}

	context = SRF_PERCALL_SETUP();
	dump = context->user_fctx;
	if (dump->next < dump->nlines || fetch_lines(dump))
		SRF_RETURN_NEXT(context,
						PointerGetDatum(dump->lines[dump->next++]));

	UnregisterExprContextCallback(((ReturnSetInfo *) fcinfo->resultinfo)->econtext,
								  end_dump, PointerGetDatum(dump));
	end_dump(PointerGetDatum(dump));
	SRF_RETURN_DONE(context);
}

static void
check_queue(const char *queue)
{
	if (queue == NULL)
		return;
	if (queue[0] == '\0' || strlen(queue) > QUEUE_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid queue \"%s\"", queue),
				 errdetail("Its name must have 1 to %d bytes.", QUEUE_BYTES)));
}

static void
check_may_sync(Relation rel)
{
	if (pg_class_aclcheck(RelationGetRelid(rel), GetUserId(),
						  ACL_UPDATE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table %s",
						RelationGetRelationName(rel)),
				 errdetail("cqrs_sync() locks the rows that it sends, which needs the privilege UPDATE.")));
}

/* A row is found by its key, which anybody can make up. */
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
			 errhint("Use cqrs_sync(cqrs_id, filter), which obeys its policies.")));
}

static char *
ctid_query(Relation rel, const char *filter)
{
	const char *name = quote_identifier(RelationGetRelationName(rel));
	const char *query = psprintf("SELECT %s.tableoid, %s.ctid FROM %s%s AS %s",
								 name, name, only(rel), qualified_name(rel),
								 name);

	/* The line break ends a comment in the filter. */
	return filter == NULL ? pstrdup(query) :
		psprintf("%s WHERE (%s\n)", query, filter);
}

/* A table without partitions may have got inheritance children. */
static const char *
only(Relation rel)
{
	return rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ? "" : "ONLY ";
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

static char *
qualified_name(Relation rel)
{
	return quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
									  RelationGetRelationName(rel));
}

/* The cursor sees what the calling query sees, and is closed by its owner. */
static Portal
open_cursor(const char *name, const char *query)
{
	return SPI_cursor_open_with_args(name, query, 0, NULL, NULL, NULL, true,
									 CURSOR_OPT_NO_SCROLL);
}

/*
 * Where the row with the key of "tuple", which has the layout of "rel", is
 * now, as the active snapshot sees it: a row that comes out of a query does
 * not say so itself.  Of a partitioned table the partitions are searched, that
 * of the row before first.
 */
static bool
find_row(Relation rel, HeapTuple tuple, Oid *relid, ItemPointer tid)
{
	static Oid	last = InvalidOid;
	List	   *candidates;
	ListCell   *lc;

	*relid = RelationGetRelid(rel);
	if (rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return find_row_in(rel, *relid, tuple, tid);

	candidates = find_all_inheritors(*relid, RowShareLock, NULL);
	if (list_member_oid(candidates, last))
		candidates = lcons_oid(last, candidates);
	foreach(lc, candidates)
	{
		*relid = lfirst_oid(lc);
		if (get_rel_relkind(*relid) == RELKIND_RELATION &&
			find_row_in(rel, *relid, tuple, tid))
		{
			last = *relid;
			return true;
		}
	}
	return false;
}

/* The same in one table or partition. */
static bool
find_row_in(Relation root, Oid relid, HeapTuple tuple, ItemPointer tid)
{
	Relation	rel = table_open(relid, RowShareLock);
	CqrsRelation *relation = cqrs_catalog_relation(relid);
	TupleConversionMap *map = convert_tuples_by_name(RelationGetDescr(root),
													 RelationGetDescr(rel));
	SysScanDesc scan;
	HeapTuple	found;

	if (map != NULL)
		tuple = execute_attr_map_tuple(tuple, map);
	scan = systable_beginscan(rel, relation->key_index, true,
							  GetActiveSnapshot(), relation->nkeys,
							  cqrs_catalog_key_scan(rel, relation, tuple));
	found = systable_getnext(scan);
	if (HeapTupleIsValid(found))
		*tid = found->t_self;
	systable_endscan(scan);
	table_close(rel, NoLock);
	return HeapTupleIsValid(found);
}

static void
begin_dump(FunctionCallInfo fcinfo, FuncCallContext *context)
{
	MemoryContext caller = MemoryContextSwitchTo(context->multi_call_memory_ctx);
	Dump	   *dump = palloc0(sizeof(Dump));
	CqrsRelation *relation;
	char	   *name;
	static uint32 ndumps = 0;

	dump->master = cqrs_catalog_master(text_to_cstring(PG_GETARG_TEXT_PP(0)),
									   &relation);
	dump->rel = table_open(relation->relid, AccessShareLock);
	cqrs_row_init(&dump->row, dump->rel);
	dump->lines_context = AllocSetContextCreate(CurrentMemoryContext,
												"cqrs dump lines",
												ALLOCSET_DEFAULT_SIZES);
	dump->row_context = AllocSetContextCreate(CurrentMemoryContext,
											  "cqrs dump row",
											  ALLOCSET_DEFAULT_SIZES);

	/* The cast keeps the row whole, with its dropped columns. */
	name = qualified_name(dump->rel);
	dump->portal = psprintf("cqrs dump %u", ++ndumps);
	SPI_connect();
	(void) open_cursor(dump->portal,
					   psprintf("SELECT (r.*)::%s FROM %s%s AS r", name,
								only(dump->rel), name));
	SPI_finish();

	/* Also when the caller stops before the end. */
	RegisterExprContextCallback(((ReturnSetInfo *) fcinfo->resultinfo)->econtext,
								end_dump, PointerGetDatum(dump));
	context->user_fctx = dump;
	MemoryContextSwitchTo(caller);
}

/* Read the next rows; false at the end. */
static bool
fetch_lines(Dump *dump)
{
	int			guc_level = cqrs_serialize_pin_settings();
	Portal		portal;

	MemoryContextReset(dump->lines_context);
	dump->next = 0;
	dump->nlines = 0;

	SPI_connect();
	portal = SPI_cursor_find(dump->portal);
	if (portal == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_CURSOR_STATE),
				 errmsg("cursor of cqrs_bulk_dump() was closed")));
	SPI_cursor_fetch(portal, true, FETCH_ROWS);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Datum		composite = SPI_getbinval(SPI_tuptable->vals[i],
											  SPI_tuptable->tupdesc, 1,
											  &isnull);

		dump->lines[dump->nlines++] = dump_line(dump, composite);
	}
	SPI_finish();

	AtEOXact_GUC(false, guc_level);
	return dump->nlines > 0;
}

static text *
dump_line(Dump *dump, Datum composite)
{
	MemoryContext caller = MemoryContextSwitchTo(dump->row_context);
	HeapTupleHeader header = DatumGetHeapTupleHeader(composite);
	HeapTupleData tuple = {0};
	StringInfoData line;
	text	   *result;

	tuple.t_data = header;
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	cqrs_row_set(&dump->row, dump->rel, &tuple);
	initStringInfo(&line);
	cqrs_serialize_row(&line, dump->rel, dump->master, &dump->row);

	MemoryContextSwitchTo(dump->lines_context);
	result = cstring_to_text_with_len(line.data, line.len);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(dump->row_context);
	return result;
}

static void
end_dump(Datum arg)
{
	Dump	   *dump = (Dump *) DatumGetPointer(arg);

	Portal		portal = SPI_cursor_find(dump->portal);

	if (portal != NULL)
		SPI_cursor_close(portal);
	table_close(dump->rel, AccessShareLock);
}
