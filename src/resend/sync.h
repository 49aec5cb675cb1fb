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
#include "utils/portal.h"
#include "utils/relcache.h"

#include "master/relation.h"

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

/* An error unless the user may lock rows of the table. */
extern void cqrs_sync_check_privilege(Relation rel);

/* The table as it is written after FROM. */
extern char *cqrs_sync_table(Relation rel);

/* A query for the rows of a table that match a filter, or for all. */
extern char *cqrs_sync_query(Relation rel, const char *columns,
							 const char *filter);

/* A cursor of SPI, under the active snapshot. */
extern Portal cqrs_sync_open_cursor(const char *name, const char *query);

/*
 * Note all rows of a cursor, whose first columns are CQRS_SYNC_PLACE, to be
 * sent when the transaction commits.  Returns how many there are.
 */
#define CQRS_SYNC_PLACE		"tableoid, ctid"
extern int64 cqrs_sync_note_rows(const char *cqrs_id, const char *queue,
								 Portal portal, CqrsSyncLastRow last_row,
								 void *arg);

/*
 * Take a record as a row of the table that its type belongs to: fills in
 * *tuple, returns the table; an error when that has no master.
 */
extern CqrsRelation *cqrs_sync_record(HeapTupleHeader header, HeapTuple tuple);

/*
 * Call "search" with the table and a row, or with each of its partitions and
 * the row in that one's layout, until it returns true; and return that.
 */
typedef bool (*CqrsSyncSearch) (Relation rel, const CqrsRelation *relation,
								HeapTuple tuple, void *arg);
extern bool cqrs_sync_find(Relation rel, HeapTuple tuple,
						   CqrsSyncSearch search, void *arg);

#endif							/* CQRS_SYNC_H */
