/*-------------------------------------------------------------------------
 *
 * condition.h
 *	  Boolean SQL expressions over the row of a table.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_CONDITION_H
#define CQRS_CONDITION_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "nodes/nodes.h"
#include "utils/relcache.h"

typedef struct CqrsCondition CqrsCondition;

/*
 * Parse "text", which must be a single expression.  "what" names it in errors.
 */
extern Node *cqrs_condition_parse(const char *text, const char *what);

/*
 * Whether a stored expression names a column, by itself or after its table's name.
 */
extern bool cqrs_condition_names_column(const char *text, const char *what,
										const char *column);

/*
 * The parse tree of an expression over rows of a table.  Raises an error if
 * the expression is not boolean, or is VOLATILE.  The table is open and
 * locked.  Names are looked up by the current search_path.
 *
 * Literals may be read by code of users, as in the checks of domains.  Unless
 * "runs_code", such a literal remains a cast of its text.
 */
extern Node *cqrs_condition_analyze(Relation rel, const char *text,
									const char *what, bool runs_code);

/*
 * Compile an expression over rows of a table, whose row type is "desc", in the
 * current context.  Names are looked up by the current search_path.
 */
extern CqrsCondition *cqrs_condition_compile(Oid relid, TupleDesc desc,
											 const char *text,
											 const char *what);

/*
 * Whether a row satisfies a condition; NULL counts as false.  Functions in the
 * condition must not lead to an evaluation of the same CqrsCondition.  After an
 * error it must not be used again.
 */
extern bool cqrs_condition_holds(CqrsCondition *condition, HeapTuple row);

#endif							/* CQRS_CONDITION_H */
