/*-------------------------------------------------------------------------
 *
 * stored_row.h
 *	  The row of a message: found, locked and written.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_STORED_ROW_H
#define CQRS_STORED_ROW_H

#include "postgres.h"

#include "nodes/lockoptions.h"

#include "apply/table.h"

/*
 * Find the row with a key, whose values are in the order of the primary key,
 * and lock it.  It is in leaf->old then.  Waits for transactions that have
 * changed the row.
 */
extern bool cqrs_stored_row_find(CqrsLeaf *leaf, const Datum *keys,
								 LockTupleMode mode);

/* A value of the row that was found, by the column of the replica's table. */
extern Datum cqrs_stored_row_get_old(CqrsLeaf *leaf, AttrNumber attnum,
									 bool *isnull);

/*
 * Begin a new row, in which columns are null, or a version of the row that was
 * found; set a column of the replica's table.
 */
extern void cqrs_stored_row_begin_new(CqrsLeaf *leaf);
extern void cqrs_stored_row_begin_update(CqrsLeaf *leaf);
extern void cqrs_stored_row_set(CqrsLeaf *leaf, AttrNumber attnum, Datum value,
								bool isnull);

/* Write what was begun, or delete the row that was found; with triggers. */
extern void cqrs_stored_row_insert(CqrsTable *table, CqrsLeaf *leaf);
extern void cqrs_stored_row_update(CqrsTable *table, CqrsLeaf *leaf);
extern void cqrs_stored_row_delete(CqrsTable *table, CqrsLeaf *leaf);

#endif							/* CQRS_STORED_ROW_H */
