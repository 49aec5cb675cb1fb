/*-------------------------------------------------------------------------
 *
 * row.h
 *	  Versions of rows, taken apart and compared.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_ROW_H
#define CQRS_ROW_H

#include "postgres.h"

#include "access/htup.h"
#include "utils/relcache.h"

#include "master/relation.h"

/* A row taken apart.  Owned by the caller's memory context. */
typedef struct CqrsRow
{
	HeapTuple	tuple;
	Datum	   *values;
	bool	   *nulls;
} CqrsRow;

/* Make *row, with room for the columns of "rel". */
extern void cqrs_row_init(CqrsRow *row, Relation rel);

/* Take "tuple" apart; what it points to must outlive the use of *row. */
extern void cqrs_row_set(CqrsRow *row, Relation rel, HeapTuple tuple);

/*
 * Raise an error unless the key, cqrs_revision and cqrs_updated are not null,
 * in a row that was not read from the table.
 */
extern void cqrs_row_check(Relation rel, const CqrsRelation *relation,
						   const CqrsRow *row);

/* Whether a column is the same in two versions of a row. */
extern bool cqrs_row_same_column(Relation rel, AttrNumber attnum,
								 const CqrsRow *before, const CqrsRow *after);

/* Whether two versions of a row are the same in all columns. */
extern bool cqrs_row_same(Relation rel, const CqrsRelation *relation,
						  const CqrsRow *before, const CqrsRow *after);

/* Whether the primary keys of two versions are the same. */
extern bool cqrs_row_same_key(Relation rel, const CqrsRelation *relation,
							  const CqrsRow *before, const CqrsRow *after);

/*
 * Whether published fields are the same, cqrs_revision and cqrs_updated aside.
 */
extern bool cqrs_row_same_fields(Relation rel, const CqrsMaster *master,
								 const CqrsRow *before, const CqrsRow *after);

#endif							/* CQRS_ROW_H */
