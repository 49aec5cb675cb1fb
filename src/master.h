/*-------------------------------------------------------------------------
 *
 * master.h
 *	  The rows of cqrs.master.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_MASTER_H
#define CQRS_MASTER_H

#include "postgres.h"

#include "nodes/pg_list.h"

/* The options of a master as its row in cqrs.master has them. */
typedef struct CqrsMasterRow
{
	char	   *cqrs_id;
	Oid			relid;
	List	   *fields;			/* of char *; NIL: all columns */
	List	   *tracked_fields; /* of char *; NIL: none, unless tracks */
	bool		tracks;
	Datum		field_map;		/* jsonb, 0 when null */
	char	   *meta;
	bool		produce;
} CqrsMasterRow;

/* How many columns cqrs.master has in the version that this library is for. */
extern const int cqrs_master_natts;

/* A list of char * from a text[] without nulls. */
extern List *cqrs_master_text_list(Datum array);

/*
 * The master of that name, in the current context.  When there is none: NULL
 * with missing_ok, an error without.
 */
extern CqrsMasterRow *cqrs_master_read(const char *cqrs_id, bool missing_ok);

/* All masters of a table, or of all tables (InvalidOid), ordered by cqrs_id. */
extern List *cqrs_master_read_all(Oid relid);

/* Write a master: a new row, or in the place of the one with its name. */
extern void cqrs_master_insert(const CqrsMasterRow *row);
extern void cqrs_master_update(const CqrsMasterRow *row);
extern void cqrs_master_delete(const char *cqrs_id);

#endif							/* CQRS_MASTER_H */
