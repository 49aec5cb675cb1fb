/*-------------------------------------------------------------------------
 *
 * guard.h
 *	  What masters rely on in the schema.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_GUARD_H
#define CQRS_GUARD_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "schema/facts.h"

/* What a function that a master names is like at a moment. */
typedef struct CqrsGuardedHook CqrsGuardedHook;

/* The functions that masters (CqrsMasterRow) name: CqrsGuardedHook. */
extern List *cqrs_guard_hooks(List *rows);

/*
 * An error when those of the commands (AlterTableCmd) that rewrite the table
 * would take something from a master.
 */
extern void cqrs_guard_foresee(const CqrsTableFacts *before, List *commands);

/*
 * An error when a table cannot become a partition of another one, because
 * either of them has masters.
 */
extern void cqrs_guard_foresee_attach(Oid relid, Oid partition);

/*
 * An error when a master has lost something since then; masters follow what
 * else has changed.  The table is locked against other changes of its schema.
 * "disables_trigger": the command was to disable a trigger of that name.
 */
extern void cqrs_guard_check_table(const CqrsTableFacts *before,
								   bool disables_trigger);
extern void cqrs_guard_check_hook(const CqrsGuardedHook *before);

/* Say which masters a table has that was renamed. */
extern void cqrs_guard_tell_renamed(Oid relid);

/* An error when a master publishes values of a type whose form has changed. */
extern void cqrs_guard_check_type(Oid type);

#endif							/* CQRS_GUARD_H */
