/*-------------------------------------------------------------------------
 *
 * meaning.h
 *	  Keeps the meaning of sync_when through changes of the schema.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_MEANING_H
#define CQRS_MEANING_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "master/master.h"

/* The meaning of a master's sync_when, at one moment. */
typedef struct CqrsMeaning CqrsMeaning;

/* Install a hook; called once, while the library is preloaded. */
extern void cqrs_meaning_init(void);

/*
 * The meanings of those masters (CqrsMasterRow) that have sync_when, in the
 * current context.  Conditions that cannot be evaluated now are left out.
 */
extern List *cqrs_meaning_read(List *rows);

/*
 * Make the master's sync_when mean the same as before, with the current names.
 * Raises an error if no expression can mean the same any more.  "respelled" is a
 * type whose values have another text now, or InvalidOid.
 */
extern void cqrs_meaning_check(const CqrsMeaning *before, Oid respelled);

/*
 * The OIDs of the functions that sync_when of a master calls, those of operators
 * and casts included; NIL if that cannot be found out.
 */
extern List *cqrs_meaning_functions(const CqrsMasterRow *row);

#endif							/* CQRS_MEANING_H */
