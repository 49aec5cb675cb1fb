/*-------------------------------------------------------------------------
 *
 * meaning.h
 *	  What sync_when of masters means, kept through changes of the schema.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_MEANING_H
#define CQRS_MEANING_H

#include "postgres.h"

#include "nodes/pg_list.h"

/* What the sync_when of a master means at a moment. */
typedef struct CqrsMeaning CqrsMeaning;

/*
 * The meanings of those masters (CqrsMasterRow) that have sync_when, in the
 * current context.  Conditions that cannot be evaluated now are left out.
 */
extern List *cqrs_meaning_read(List *rows);

/*
 * Have the master's sync_when mean the same as before, by other words where
 * names have changed; an error when nothing can mean it any more.
 */
extern void cqrs_meaning_check(const CqrsMeaning *before);

#endif							/* CQRS_MEANING_H */
