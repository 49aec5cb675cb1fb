/*-------------------------------------------------------------------------
 *
 * locate.h
 *	  Rows of masters' tables that callers pass as records, found in their tables.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LOCATE_H
#define CQRS_LOCATE_H

#include "postgres.h"

#include "access/htup.h"
#include "utils/relcache.h"

#include "master/relation.h"

/*
 * Take a record as a row of the table that its type belongs to: fills in
 * *tuple, returns the table's OID.  Raises an error if the table has no
 * master.
 */
extern Oid	cqrs_locate_record(HeapTupleHeader header, HeapTuple tuple);

/*
 * Call "search" with the table and a row, or with each partition and the row
 * in the partition's layout, until it returns true; returns whether it has.
 * With "only_written", tables that this transaction cannot have written to are
 * skipped, and none is locked.
 */
typedef bool (*CqrsLocateSearch) (Relation rel, const CqrsRelation *relation,
								  HeapTuple tuple, void *arg);
extern bool cqrs_locate_row(Relation rel, HeapTuple tuple, bool only_written,
							CqrsLocateSearch search, void *arg);

#endif							/* CQRS_LOCATE_H */
