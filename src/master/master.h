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

#include "fmgr.h"
#include "nodes/pg_list.h"

/* The options of a master. */
typedef enum CqrsOption
{
#define CQRS_OPTION(symbol, ...) symbol,
#include "master/option_list.h"
	CQRS_NOPTIONS
} CqrsOption;

/* A row of cqrs.master: values of the types that option_list.h gives. */
typedef struct CqrsMasterRow
{
	char	   *cqrs_id;
	Oid			relid;
	NullableDatum options[CQRS_NOPTIONS];
} CqrsMasterRow;

/*
 * The cqrs_id that is an argument of a function which is not STRICT.  Raises
 * an error if it is null.
 */
extern char *cqrs_master_id_arg(FunctionCallInfo fcinfo, int arg);

/* The values of options as C types: NULL and NIL for null. */
extern char *cqrs_master_text(const CqrsMasterRow *row, CqrsOption option);
extern List *cqrs_master_names(const CqrsMasterRow *row, CqrsOption option);
extern bool cqrs_master_is(const CqrsMasterRow *row, CqrsOption option,
						   const char *choice);

/*
 * The master of that name, in the current context.  If there is none: NULL
 * with missing_ok, an error without.
 */
extern CqrsMasterRow *cqrs_master_read(const char *cqrs_id, bool missing_ok);

/* All masters of a table, or of all tables (InvalidOid), ordered by cqrs_id. */
extern List *cqrs_master_read_all(Oid relid);

/* Write a master: as a new row, or replace the row with its name. */
extern void cqrs_master_insert(const CqrsMasterRow *row);
extern void cqrs_master_update(const CqrsMasterRow *row);
extern void cqrs_master_delete(const char *cqrs_id);

#endif							/* CQRS_MASTER_H */
