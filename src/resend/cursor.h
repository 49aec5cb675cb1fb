/*-------------------------------------------------------------------------
 *
 * cursor.h
 *	  The rows of a master, one after the other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_CURSOR_H
#define CQRS_CURSOR_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "fmgr.h"
#include "lib/stringinfo.h"

#include "compose/serialize.h"
#include "master/relation.h"
#include "resend/query.h"

/* A query in progress; lives in the context in which it was begun. */
typedef struct CqrsCursor
{
	Relation	rel;
	CqrsRelation *relation;		/* as it was at the beginning */
	CqrsMaster *master;
	CqrsRow		row;			/* room for the caller's current row */
	CqrsQuery  *query;			/* NULL: not begun */
	MemoryContext row_context;	/* current while a row is dealt with, and
								 * reset afterwards */
} CqrsCursor;

typedef void (*CqrsCursorRow) (CqrsCursor *cursor, HeapTuple row,
							   TupleDesc desc, void *arg);

/* Look up a master for reading, and lock its table; no query runs yet. */
extern CqrsCursor *cqrs_cursor_begin(const char *cqrs_id);

/* Run a query with the caller's rights, under the active snapshot. */
extern void cqrs_cursor_query(CqrsCursor *cursor, const char *query);

/*
 * Pass up to "count" rows to "take", with settings pinned.  Returns how many
 * there were, 0 at the end.
 */
extern uint64 cqrs_cursor_fetch(CqrsCursor *cursor, uint64 count,
								CqrsCursorRow take, void *arg);

/*
 * Like cqrs_cursor_fetch(), for a query of cqrs_cursor_row_query(): "take"
 * gets instance_data, as messages have it.
 */
typedef void (*CqrsCursorData) (CqrsCursor *cursor, const char *data,
								int length, void *arg);
extern uint64 cqrs_cursor_fetch_data(CqrsCursor *cursor, uint64 count,
									 CqrsCursorData take, void *arg);

/* Whether the row that was set matches sync_when.  Called from "take" only. */
extern bool cqrs_cursor_matches(CqrsCursor *cursor);

/* Close the query and the table. */
extern void cqrs_cursor_end(CqrsCursor *cursor);

/*
 * attach: end the cursor if the set-returning function of "fcinfo" is left
 * before its end.  detach: end the cursor now, at the end of the function.
 */
extern void cqrs_cursor_attach(CqrsCursor *cursor, FunctionCallInfo fcinfo);
extern void cqrs_cursor_detach(CqrsCursor *cursor, FunctionCallInfo fcinfo);

/*
 * The query for whole rows, and the function that takes such a row apart; the
 * same for primary key and revision alone, of rows that match a filter.
 */
extern char *cqrs_cursor_row_query(CqrsCursor *cursor, const char *filter);
extern void cqrs_cursor_set_row(CqrsCursor *cursor, HeapTuple row,
								TupleDesc desc);
extern char *cqrs_cursor_key_query(CqrsCursor *cursor, const char *filter);
extern void cqrs_cursor_set_key(CqrsCursor *cursor, HeapTuple row,
								TupleDesc desc);

#endif							/* CQRS_CURSOR_H */
