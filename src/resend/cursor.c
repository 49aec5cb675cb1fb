/*-------------------------------------------------------------------------
 *
 * cursor.c
 *	  The rows of a master, one after the other.
 *
 * For functions that return or write something for each row of a table, in
 * memory that does not depend on its size.  The query runs with the caller's
 * rights, row security included.  Other functions run between two calls of a
 * set-returning function, and functions of the master's owner run for each
 * row.  Neither can reach the query (query.c) or the definition of the master,
 * which is a copy.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "executor/executor.h"
#include "nodes/execnodes.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compose/hook.h"
#include "compose/instance_data.h"
#include "resend/cursor.h"
#include "resend/sync.h"

/* The callback that takes instance_data, and its argument. */
typedef struct DataTaker
{
	CqrsStreamData take;
	void	   *arg;
} DataTaker;

static void take_row_data(CqrsStream *stream, HeapTuple row, TupleDesc desc,
						  void *arg);
static uint64 fetch_data_set_wise(CqrsStream *stream, uint64 count,
								  DataTaker *taker);
static void end_stream(Datum arg);

CqrsStream *
cqrs_stream_begin(const char *cqrs_id)
{
	CqrsStream *stream = palloc0(sizeof(CqrsStream));
	CqrsRelation *relation;

	stream->rel = cqrs_relation_open(cqrs_id, AccessShareLock, &relation,
									 &stream->master);
	/* The copy's pointers are valid until the end of the transaction. */
	stream->relation = palloc(sizeof(CqrsRelation));
	*stream->relation = *relation;
	cqrs_row_init(&stream->row, stream->rel);
	stream->row_context = AllocSetContextCreate(CurrentMemoryContext,
												"cqrs stream row",
												ALLOCSET_DEFAULT_SIZES);
	return stream;
}

void
cqrs_stream_query(CqrsStream *stream, const char *query)
{
	stream->query = cqrs_query_begin(query, 0, NULL, NULL);
}

/* The query has the caller's rights, so it runs outside the scope of hooks. */
uint64
cqrs_stream_fetch(CqrsStream *stream, uint64 count, CqrsStreamRow take,
				  void *arg)
{
	CqrsQuery  *query = stream->query;
	uint64		nrows = cqrs_query_fetch(query, count);
	MemoryContext caller = MemoryContextSwitchTo(query->rows_context);
	CqrsHookScope scope;

	cqrs_hook_enter(&scope, stream->rel, stream->relation);
	MemoryContextSwitchTo(stream->row_context);
	for (uint64 i = 0; i < nrows; i++)
	{
		take(stream, query->rows[i], query->desc, arg);
		MemoryContextReset(stream->row_context);
	}
	cqrs_hook_leave(&scope);
	MemoryContextSwitchTo(caller);
	return nrows;
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

/* Pass on the instance_data of one row. */
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

/*
 * The same for up to "count" rows, by one call of the serializer.  Returns the
 * number of rows.
 */
static uint64
fetch_data_set_wise(CqrsStream *stream, uint64 count, DataTaker *taker)
{
	CqrsQuery  *query = stream->query;
	uint64		nrows = cqrs_query_fetch(query, count);
	MemoryContext caller = MemoryContextSwitchTo(query->rows_context);
	CqrsHookScope scope;
	HeapTuple  *rows;
	char	  **made;

	cqrs_hook_enter(&scope, stream->rel, stream->relation);
	MemoryContextSwitchTo(stream->row_context);
	rows = palloc(sizeof(HeapTuple) * nrows);
	made = palloc(sizeof(char *) * nrows);
	for (uint64 i = 0; i < nrows; i++)
	{
		cqrs_stream_set_row(stream, query->rows[i], query->desc);
		rows[i] = stream->row.tuple;
	}
	if (nrows > 0)
		cqrs_instance_data(stream->rel, stream->relation,
						   stream->master, rows, nrows, made);
	for (uint64 i = 0; i < nrows; i++)
		taker->take(stream, made[i], strlen(made[i]), taker->arg);
	MemoryContextReset(stream->row_context);
	cqrs_hook_leave(&scope);
	MemoryContextSwitchTo(caller);
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
	if (stream->query != NULL)
		cqrs_query_end(stream->query);
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
	HeapTupleHeader header = DatumGetHeapTupleHeader(heap_getattr(row, 1, desc,
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
			heap_getattr(row, i + 1, desc, &stream->row.nulls[attnum - 1]);
	}
}

/* Shutdown callback of a set-returning function. */
static void
end_stream(Datum arg)
{
	cqrs_stream_end((CqrsStream *) DatumGetPointer(arg));
}
