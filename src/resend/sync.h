/*-------------------------------------------------------------------------
 *
 * sync.h
 *	  How the rows of a master to be sent or listed are chosen.
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

/* Raise an error if a queue's name is empty or too long for a routing key. */
extern void cqrs_sync_check_queue(const char *queue);

/*
 * Raise an error unless the filter is one expression and does not close the
 * parenthesis around it.  The filter runs with the caller's rights, so this
 * check makes errors clear; it is not needed for safety.
 */
extern void cqrs_sync_check_filter(const char *filter);

/*
 * Open the table of a master whose rows are to be sent, and look up the
 * master.  Raises an error unless the user may read and lock the rows.
 */
extern Relation cqrs_sync_open(const char *cqrs_id, CqrsRelation **relation,
							   CqrsMaster **master);

/* The FROM item for a table. */
extern char *cqrs_sync_table(Relation rel);

/* A query for the rows of a table that match a filter, or for all. */
extern char *cqrs_sync_query(Relation rel, const char *columns,
							 const char *filter);

/*
 * Note all rows of a query, whose first columns are CQRS_SYNC_ROW_ADDRESS, to be
 * sent when the transaction commits.  Returns the number of rows.
 */
#define CQRS_SYNC_ROW_ADDRESS		"tableoid, ctid"
extern int64 cqrs_sync_note_rows(const char *cqrs_id, const char *queue,
								 CqrsQuery *query, CqrsSyncLastRow last_row,
								 void *arg);

#endif							/* CQRS_SYNC_H */
