/*-------------------------------------------------------------------------
 *
 * finder.h
 *	  Rows of replicas, looked up by the keys of messages, for users.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_FINDER_H
#define CQRS_FINDER_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "apply/json_scan.h"
#include "apply/value_in.h"
#include "replica/mapping.h"

/* A replica whose rows are looked up. */
typedef struct CqrsFinder
{
	CqrsReplicaRow *row;
	Relation	rel;			/* open, with ACCESS SHARE */
	CqrsMapping mapping;
	CqrsValueInput *inputs[INDEX_MAX_KEYS]; /* of mapping.keys[] */
	struct _SPI_plan *plan;
} CqrsFinder;

/*
 * Begin to look up rows of a replica, in the current context and with SPI
 * connected.  Raises an error if there is no such replica with a table, or if
 * the current user may not read all of the table.
 */
extern CqrsFinder *cqrs_finder_begin(const char *cqrs_id);

/* Close the table.  The lock stays. */
extern void cqrs_finder_end(CqrsFinder *finder);

/*
 * Read a key as messages have it: a value, or an array of the values of
 * several columns.  Raises an error if the value is not a key.  The caller has
 * pinned the settings (settings.h).
 */
extern void cqrs_finder_read_key(CqrsFinder *finder, const CqrsJsonValue *key,
								 Datum *values);

/* A row that was looked up. */
typedef struct CqrsFoundRow
{
	bool		alive;			/* the row exists, and is not marked as
								 * deleted */
	int64		revision;		/* -1: there is no row */
} CqrsFoundRow;

/* Look up the row with a key, under the active snapshot. */
extern CqrsFoundRow cqrs_finder_find(CqrsFinder *finder, const Datum *key);

/*
 * The FROM item for the table, and the condition that a row of it is not
 * marked as deleted.
 */
extern char *cqrs_finder_table(const CqrsFinder *finder);
extern char *cqrs_finder_alive(const CqrsFinder *finder);

#endif							/* CQRS_FINDER_H */
