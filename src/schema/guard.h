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

/* What a table, and a function that a master names, are like at a moment. */
typedef struct CqrsGuardedTable CqrsGuardedTable;
typedef struct CqrsGuardedHook CqrsGuardedHook;

/*
 * A table, in the current context; NULL when it is gone.  It need not have a
 * master yet: one may come while the command waits for its lock.
 */
extern CqrsGuardedTable *cqrs_guard_table(Oid relid);

/* The functions that masters (CqrsMasterRow) name: CqrsGuardedHook. */
extern List *cqrs_guard_hooks(List *rows);

/*
 * An error when those of the commands (AlterTableCmd) that rewrite the table
 * would take something from a master.
 */
extern void cqrs_guard_foresee(const CqrsGuardedTable *before, List *commands);

/*
 * An error when a master has lost something since then; masters follow what
 * else has changed.  The table is locked against other changes of its schema.
 * "disables_trigger": the command was to disable a trigger of that name.
 */
extern void cqrs_guard_check_table(const CqrsGuardedTable *before,
								   bool disables_trigger);
extern void cqrs_guard_check_hook(const CqrsGuardedHook *before);

#endif							/* CQRS_GUARD_H */
