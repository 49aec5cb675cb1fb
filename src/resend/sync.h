/*-------------------------------------------------------------------------
 *
 * sync.h
 *	  How the rows of a master are chosen that are to be sent or listed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_SYNC_H
#define CQRS_SYNC_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "utils/relcache.h"

#include "master/relation.h"
#include "resend/query.h"

/* Called with the last row of each fetch. */
typedef void (*CqrsSyncLastRow) (HeapTuple row, TupleDesc desc, void *arg);

/* Errors when the name of a queue is too long for a routing key, or empty. */
extern void cqrs_sync_check_queue(const char *queue);

/*
 * An error unless the filter is one expression: nothing that closes the
 * parenthesis around it and goes on.  It runs with the caller's rights, so
 * this is about clear errors, not about safety.
 */
extern void cqrs_sync_check_filter(const char *filter);

/*
 * Open the table of a master whose rows are to be sent, and look up the
 * master; an error unless the user may read and lock its rows.
 */
extern Relation cqrs_sync_open(const char *cqrs_id, CqrsRelation **relation,
							   CqrsMaster **master);

/* The table as it is written after FROM. */
extern char *cqrs_sync_table(Relation rel);

/* A query for the rows of a table that match a filter, or for all. */
extern char *cqrs_sync_query(Relation rel, const char *columns,
							 const char *filter);

/*
 * Note all rows of a query, whose first columns are CQRS_SYNC_PLACE, to be
 * sent when the transaction commits.  Returns how many there are.
 */
#define CQRS_SYNC_PLACE		"tableoid, ctid"
extern int64 cqrs_sync_note_rows(const char *cqrs_id, const char *queue,
								 CqrsQuery *query, CqrsSyncLastRow last_row,
								 void *arg);

/*
 * Take a record as a row of the table that its type belongs to: fills in
 * *tuple, returns the table's OID; an error when that has no master.
 */
extern Oid	cqrs_sync_record(HeapTupleHeader header, HeapTuple tuple);

/*
 * Call "search" with the table and a row, or with each of its partitions and
 * the row in that one's layout, until it returns true; and return that.  With
 * "only_written", tables that this transaction cannot have written to are left
 * out, and none is locked.
 */
typedef bool (*CqrsSyncSearch) (Relation rel, const CqrsRelation *relation,
								HeapTuple tuple, void *arg);
extern bool cqrs_sync_find(Relation rel, HeapTuple tuple, bool only_written,
						   CqrsSyncSearch search, void *arg);

#endif							/* CQRS_SYNC_H */
