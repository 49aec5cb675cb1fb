/*-------------------------------------------------------------------------
 *
 * stream.c
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
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "stream.h"
#include "sync.h"

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
	int			guc_level = cqrs_serialize_pin_settings();
	MemoryContext spi_context;
	Portal		portal;
	uint64		nrows;

	SPI_connect();
	portal = SPI_cursor_find(stream->portal);
	if (portal == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_CURSOR_STATE),
				 errmsg("cursor \"%s\" was closed", stream->portal),
				 errdetail("It reads the rows of master \"%s\".",
						   stream->master->cqrs_id)));
	SPI_cursor_fetch(portal, true, count);
	nrows = SPI_processed;
	for (uint64 i = 0; i < nrows; i++)
	{
		spi_context = MemoryContextSwitchTo(stream->row_context);
		take(stream, SPI_tuptable->vals[i], SPI_tuptable->tupdesc, arg);
		MemoryContextSwitchTo(spi_context);
		MemoryContextReset(stream->row_context);
	}
	SPI_finish();

	AtEOXact_GUC(false, guc_level);
	return nrows;
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
cqrs_stream_row_query(CqrsStream *stream)
{
	const char *name = quote_identifier(RelationGetRelationName(stream->rel));

	return cqrs_sync_query(stream->rel,
						   psprintf("(%s.*)::%s", name,
									quote_qualified_identifier(get_namespace_name(RelationGetNamespace(stream->rel)),
															   RelationGetRelationName(stream->rel))),
						   NULL);
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
