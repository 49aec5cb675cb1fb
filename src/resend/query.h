/*-------------------------------------------------------------------------
 *
 * query.h
 *	  The rows of a query, some at a time, out of the reach of SQL commands.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_QUERY_H
#define CQRS_QUERY_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "utils/queryenvironment.h"

/* A query in progress; lives in the context in which it was begun. */
typedef struct CqrsQuery
{
	TupleDesc	desc;			/* of its rows; does not change */
	double		estimate;		/* the planner's number of rows */
	HeapTuple  *rows;			/* of the last fetch */
	uint64		nrows;
	MemoryContext rows_context; /* holds them; reset by each fetch */
	struct CqrsQueryState *state;
} CqrsQuery;

/*
 * Begin a SELECT with parameters that are not null, with the caller's rights
 * and under the active snapshot.
 */
extern CqrsQuery *cqrs_query_begin(const char *text, int nparams,
								   const Oid *types, const Datum *values);

/* The same; the query can read the relations of an environment, too. */
extern CqrsQuery *cqrs_query_begin_env(const char *text, int nparams,
									   const Oid *types, const Datum *values,
									   QueryEnvironment *env);

/* Fetch up to "count" rows, at least 1; returns how many, 0 at the end. */
extern uint64 cqrs_query_fetch(CqrsQuery *query, uint64 count);

/* End a query.  After an error the end of the transaction does so. */
extern void cqrs_query_end(CqrsQuery *query);

#endif							/* CQRS_QUERY_H */
