/*-------------------------------------------------------------------------
 *
 * cursor.c
 *	  The rows of a master one after the other, from a cursor.
 *
 * For functions that return or write something for each row of a table, in
 * memory that does not depend on its size.  The query runs with the caller's
 * rights, row security included.  The cursor is found by its name each time,
 * because between two calls of a set-returning function others run, and may
 * have closed it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "nodes/plannodes.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compose/hook.h"
#include "compose/instance_data.h"
#include "resend/cursor.h"
#include "resend/sync.h"

/* Who takes instance_data. */
typedef struct DataTaker
{
	CqrsStreamData take;
	void	   *arg;
} DataTaker;

static uint64 fetch(CqrsStream *stream, uint64 count);
static void take_row_data(CqrsStream *stream, HeapTuple row, TupleDesc desc,
						  void *arg);
static uint64 fetch_data_set_wise(CqrsStream *stream, uint64 count,
								  DataTaker *taker);
static void end_stream(Datum arg);

CqrsStream *
cqrs_stream_begin(const char *cqrs_id)
{
	CqrsStream *stream = palloc0(sizeof(CqrsStream));

	stream->master = cqrs_catalog_master(cqrs_id, &stream->relation);
	stream->rel = table_open(stream->relation->relid, AccessShareLock);
	cqrs_row_init(&stream->row, stream->rel);
	stream->row_context = AllocSetContextCreate(CurrentMemoryContext,
												"cqrs stream row",
												ALLOCSET_DEFAULT_SIZES);
	return stream;
}

void
cqrs_stream_query(CqrsStream *stream, const char *query)
{
	static uint32 nstreams = 0;
	Portal		portal;

	stream->portal = psprintf("cqrs stream %u", ++nstreams);
	SPI_connect();
	portal = cqrs_sync_open_cursor(stream->portal, query);
	stream->estimate = linitial_node(PlannedStmt,
									 portal->stmts)->planTree->plan_rows;
	SPI_finish();
}

uint64
cqrs_stream_fetch(CqrsStream *stream, uint64 count, CqrsStreamRow take,
				  void *arg)
{
	MemoryContext spi_context;
	CqrsHookScope scope;
	uint64		nrows;

	SPI_connect();
	nrows = fetch(stream, count);
	cqrs_hook_enter(&scope, stream->rel, stream->relation);
	for (uint64 i = 0; i < nrows; i++)
	{
		spi_context = MemoryContextSwitchTo(stream->row_context);
		take(stream, SPI_tuptable->vals[i], SPI_tuptable->tupdesc, arg);
		MemoryContextSwitchTo(spi_context);
		MemoryContextReset(stream->row_context);
	}
	cqrs_hook_leave(&scope);
	SPI_finish();
	return nrows;
}

/* The query has the caller's rights, so no scope of hooks is entered yet. */
static uint64
fetch(CqrsStream *stream, uint64 count)
{
	Portal		portal = SPI_cursor_find(stream->portal);

	if (portal == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_CURSOR_STATE),
				 errmsg("cursor \"%s\" was closed", stream->portal),
				 errdetail("It reads the rows of master \"%s\".",
						   stream->master->cqrs_id)));
	SPI_cursor_fetch(portal, true, count);
	return SPI_processed;
}

uint64
cqrs_stream_fetch_data(CqrsStream *stream, uint64 count, CqrsStreamData take,
					   void *arg)
{
	DataTaker	taker = {take, arg};
	CqrsHookScope scope;
	bool		set_wise;

	cqrs_hook_enter(&scope, stream->rel, stream->relation);
	set_wise = cqrs_hook_is_set_wise(stream->relation, stream->master);
	cqrs_hook_leave(&scope);
	if (!set_wise)
		return cqrs_stream_fetch(stream, count, take_row_data, &taker);
	return fetch_data_set_wise(stream, count, &taker);
}

static void
take_row_data(CqrsStream *stream, HeapTuple row, TupleDesc desc, void *arg)
{
	DataTaker  *taker = arg;
	StringInfoData data;
	char	   *made;

	cqrs_stream_set_row(stream, row, desc);
	if (stream->master->serializer == NULL)
	{
		initStringInfo(&data);
		cqrs_serialize_row(&data, stream->rel, stream->master, &stream->row);
		taker->take(stream, data.data, data.len, taker->arg);
		return;
	}
	cqrs_instance_data(stream->rel, stream->relation, stream->master,
					   &stream->row.tuple, 1, &made);
	taker->take(stream, made, strlen(made), taker->arg);
}

static uint64
fetch_data_set_wise(CqrsStream *stream, uint64 count, DataTaker *taker)
{
	MemoryContext spi_context;
	CqrsHookScope scope;
	uint64		nrows;
	HeapTuple  *rows;
	char	  **made;

	SPI_connect();
	nrows = fetch(stream, count);
	cqrs_hook_enter(&scope, stream->rel, stream->relation);
	spi_context = MemoryContextSwitchTo(stream->row_context);
	rows = palloc(sizeof(HeapTuple) * nrows);
	made = palloc(sizeof(char *) * nrows);
	for (uint64 i = 0; i < nrows; i++)
	{
		cqrs_stream_set_row(stream, SPI_tuptable->vals[i],
							SPI_tuptable->tupdesc);
		rows[i] = stream->row.tuple;
	}
	if (nrows > 0)
		cqrs_instance_data(stream->rel, stream->relation,
						   stream->master, rows, nrows, made);
	for (uint64 i = 0; i < nrows; i++)
		taker->take(stream, made[i], strlen(made[i]), taker->arg);
	MemoryContextSwitchTo(spi_context);
	MemoryContextReset(stream->row_context);
	cqrs_hook_leave(&scope);
	SPI_finish();
	return nrows;
}

bool
cqrs_stream_matches(CqrsStream *stream)
{
	CqrsHookSubject subject = {stream->relation, stream->master, CQRS_SYNC, NULL};
	StringInfoData key;

	initStringInfo(&key);
	cqrs_serialize_key(&key, stream->rel, stream->relation, &stream->row);
	subject.key = key.data;
	return cqrs_hook_matches(&subject, stream->row.tuple);
}

void
cqrs_stream_end(CqrsStream *stream)
{
	Portal		portal = stream->portal == NULL ? NULL :
	SPI_cursor_find(stream->portal);

	if (portal != NULL)
		SPI_cursor_close(portal);
	table_close(stream->rel, AccessShareLock);
}

void
cqrs_stream_attach(CqrsStream *stream, FunctionCallInfo fcinfo)
{
	RegisterExprContextCallback(((ReturnSetInfo *) fcinfo->resultinfo)->econtext,
								end_stream, PointerGetDatum(stream));
}

void
cqrs_stream_detach(CqrsStream *stream, FunctionCallInfo fcinfo)
{
	UnregisterExprContextCallback(((ReturnSetInfo *) fcinfo->resultinfo)->econtext,
								  end_stream, PointerGetDatum(stream));
	cqrs_stream_end(stream);
}

/* The cast keeps the row whole, with its dropped columns. */
char *
cqrs_stream_row_query(CqrsStream *stream, const char *filter)
{
	const char *name = quote_identifier(RelationGetRelationName(stream->rel));

	return cqrs_sync_query(stream->rel,
						   psprintf("(%s.*)::%s", name,
									quote_qualified_identifier(get_namespace_name(RelationGetNamespace(stream->rel)),
															   RelationGetRelationName(stream->rel))),
						   filter);
}

void
cqrs_stream_set_row(CqrsStream *stream, HeapTuple row, TupleDesc desc)
{
	bool		isnull;
	HeapTupleHeader header = DatumGetHeapTupleHeader(SPI_getbinval(row, desc, 1,
																   &isnull));
	HeapTuple	tuple = palloc0(sizeof(HeapTupleData));

	tuple->t_data = header;
	tuple->t_len = HeapTupleHeaderGetDatumLength(header);
	cqrs_row_set(&stream->row, stream->rel, tuple);
}

char *
cqrs_stream_key_query(CqrsStream *stream, const char *filter)
{
	StringInfoData columns;

	initStringInfo(&columns);
	for (int i = 0; i < stream->relation->nkeys; i++)
		appendStringInfo(&columns, "%s, ",
						 quote_identifier(stream->relation->keys[i].column));
	appendStringInfoString(&columns, "cqrs_revision");
	return cqrs_sync_query(stream->rel, columns.data, filter);
}

void
cqrs_stream_set_key(CqrsStream *stream, HeapTuple row, TupleDesc desc)
{
	for (int i = 0; i <= stream->relation->nkeys; i++)
	{
		AttrNumber	attnum = i < stream->relation->nkeys ?
		stream->relation->keys[i].attnum : stream->relation->revision;

		stream->row.values[attnum - 1] =
			SPI_getbinval(row, desc, i + 1, &stream->row.nulls[attnum - 1]);
	}
}

static void
end_stream(Datum arg)
{
	cqrs_stream_end((CqrsStream *) DatumGetPointer(arg));
}
