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
	CqrsCursorData take;
	void	   *arg;
} DataTaker;

static void take_row_data(CqrsCursor *cursor, HeapTuple row, TupleDesc desc,
						  void *arg);
static uint64 fetch_data_set_wise(CqrsCursor *cursor, uint64 count,
								  DataTaker *taker);
static void end_cursor(Datum arg);

CqrsCursor *
cqrs_cursor_begin(const char *cqrs_id)
{
	CqrsCursor *cursor = palloc0(sizeof(CqrsCursor));
	CqrsRelation *relation;

	cursor->rel = cqrs_relation_open(cqrs_id, AccessShareLock, &relation,
									 &cursor->master);
	/* The copy's pointers are valid until the end of the transaction. */
	cursor->relation = palloc(sizeof(CqrsRelation));
	*cursor->relation = *relation;
	cqrs_row_init(&cursor->row, cursor->rel);
	cursor->row_context = AllocSetContextCreate(CurrentMemoryContext,
												"cqrs cursor row",
												ALLOCSET_DEFAULT_SIZES);
	return cursor;
}

void
cqrs_cursor_query(CqrsCursor *cursor, const char *query)
{
	cursor->query = cqrs_query_begin(query, 0, NULL, NULL);
}

/* The query has the caller's rights, so it runs outside the scope of hooks. */
uint64
cqrs_cursor_fetch(CqrsCursor *cursor, uint64 count, CqrsCursorRow take,
				  void *arg)
{
	CqrsQuery  *query = cursor->query;
	uint64		nrows = cqrs_query_fetch(query, count);
	MemoryContext caller = MemoryContextSwitchTo(query->rows_context);
	CqrsHookScope scope;

	cqrs_hook_enter(&scope, cursor->rel, cursor->relation);
	MemoryContextSwitchTo(cursor->row_context);
	for (uint64 i = 0; i < nrows; i++)
	{
		take(cursor, query->rows[i], query->desc, arg);
		MemoryContextReset(cursor->row_context);
	}
	cqrs_hook_leave(&scope);
	MemoryContextSwitchTo(caller);
	return nrows;
}

uint64
cqrs_cursor_fetch_data(CqrsCursor *cursor, uint64 count, CqrsCursorData take,
					   void *arg)
{
	DataTaker	taker = {take, arg};
	CqrsHookScope scope;
	bool		set_wise;

	cqrs_hook_enter(&scope, cursor->rel, cursor->relation);
	set_wise = cqrs_hook_is_set_wise(cursor->relation, cursor->master);
	cqrs_hook_leave(&scope);
	if (!set_wise)
		return cqrs_cursor_fetch(cursor, count, take_row_data, &taker);
	return fetch_data_set_wise(cursor, count, &taker);
}

/* Pass on the instance_data of one row. */
static void
take_row_data(CqrsCursor *cursor, HeapTuple row, TupleDesc desc, void *arg)
{
	DataTaker  *taker = arg;
	StringInfoData data;
	char	   *made;

	cqrs_cursor_set_row(cursor, row, desc);
	if (cursor->master->serializer == NULL)
	{
		initStringInfo(&data);
		cqrs_serialize_row(&data, cursor->rel, cursor->master, &cursor->row);
		taker->take(cursor, data.data, data.len, taker->arg);
		return;
	}
	cqrs_instance_data(cursor->rel, cursor->relation, cursor->master,
					   &cursor->row.tuple, 1, &made);
	taker->take(cursor, made, strlen(made), taker->arg);
}

/*
 * Pass on the instance_data of up to "count" rows, by one call of the
 * serializer.  Returns the number of rows.
 */
static uint64
fetch_data_set_wise(CqrsCursor *cursor, uint64 count, DataTaker *taker)
{
	CqrsQuery  *query = cursor->query;
	uint64		nrows = cqrs_query_fetch(query, count);
	MemoryContext caller = MemoryContextSwitchTo(query->rows_context);
	CqrsHookScope scope;
	HeapTuple  *rows;
	char	  **made;

	cqrs_hook_enter(&scope, cursor->rel, cursor->relation);
	MemoryContextSwitchTo(cursor->row_context);
	rows = palloc(sizeof(HeapTuple) * nrows);
	made = palloc(sizeof(char *) * nrows);
	for (uint64 i = 0; i < nrows; i++)
	{
		cqrs_cursor_set_row(cursor, query->rows[i], query->desc);
		rows[i] = cursor->row.tuple;
	}
	if (nrows > 0)
		cqrs_instance_data(cursor->rel, cursor->relation,
						   cursor->master, rows, nrows, made);
	for (uint64 i = 0; i < nrows; i++)
		taker->take(cursor, made[i], strlen(made[i]), taker->arg);
	MemoryContextReset(cursor->row_context);
	cqrs_hook_leave(&scope);
	MemoryContextSwitchTo(caller);
	return nrows;
}

bool
cqrs_cursor_matches(CqrsCursor *cursor)
{
	CqrsHookSubject subject = {cursor->relation, cursor->master, CQRS_SIGNAL_SYNC, NULL};
	StringInfoData key;

	initStringInfo(&key);
	cqrs_serialize_key(&key, cursor->rel, cursor->relation, &cursor->row);
	subject.key = key.data;
	return cqrs_hook_matches(&subject, cursor->row.tuple);
}

void
cqrs_cursor_end(CqrsCursor *cursor)
{
	if (cursor->query != NULL)
		cqrs_query_end(cursor->query);
	table_close(cursor->rel, AccessShareLock);
}

void
cqrs_cursor_attach(CqrsCursor *cursor, FunctionCallInfo fcinfo)
{
	RegisterExprContextCallback(((ReturnSetInfo *) fcinfo->resultinfo)->econtext,
								end_cursor, PointerGetDatum(cursor));
}

void
cqrs_cursor_detach(CqrsCursor *cursor, FunctionCallInfo fcinfo)
{
	UnregisterExprContextCallback(((ReturnSetInfo *) fcinfo->resultinfo)->econtext,
								  end_cursor, PointerGetDatum(cursor));
	cqrs_cursor_end(cursor);
}

/* The cast keeps the row whole, with its dropped columns. */
char *
cqrs_cursor_row_query(CqrsCursor *cursor, const char *filter)
{
	const char *name = quote_identifier(RelationGetRelationName(cursor->rel));

	return cqrs_sync_query(cursor->rel,
						   psprintf("(%s.*)::%s", name,
									quote_qualified_identifier(get_namespace_name(RelationGetNamespace(cursor->rel)),
															   RelationGetRelationName(cursor->rel))),
						   filter);
}

void
cqrs_cursor_set_row(CqrsCursor *cursor, HeapTuple row, TupleDesc desc)
{
	bool		isnull;
	HeapTupleHeader header = DatumGetHeapTupleHeader(heap_getattr(row, 1, desc,
																  &isnull));
	HeapTuple	tuple = palloc0(sizeof(HeapTupleData));

	tuple->t_data = header;
	tuple->t_len = HeapTupleHeaderGetDatumLength(header);
	cqrs_row_set(&cursor->row, cursor->rel, tuple);
}

char *
cqrs_cursor_key_query(CqrsCursor *cursor, const char *filter)
{
	StringInfoData columns;

	initStringInfo(&columns);
	for (int i = 0; i < cursor->relation->nkeys; i++)
		appendStringInfo(&columns, "%s, ",
						 quote_identifier(cursor->relation->keys[i].column));
	appendStringInfoString(&columns, "cqrs_revision");
	return cqrs_sync_query(cursor->rel, columns.data, filter);
}

void
cqrs_cursor_set_key(CqrsCursor *cursor, HeapTuple row, TupleDesc desc)
{
	for (int i = 0; i <= cursor->relation->nkeys; i++)
	{
		AttrNumber	attnum = i < cursor->relation->nkeys ?
		cursor->relation->keys[i].attnum : cursor->relation->revision;

		cursor->row.values[attnum - 1] =
			heap_getattr(row, i + 1, desc, &cursor->row.nulls[attnum - 1]);
	}
}

/* Shutdown callback of a set-returning function. */
static void
end_cursor(Datum arg)
{
	cqrs_cursor_end((CqrsCursor *) DatumGetPointer(arg));
}
