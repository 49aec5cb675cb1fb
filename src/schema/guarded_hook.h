/*-------------------------------------------------------------------------
 *
 * guarded_hook.h
 *	  Functions that masters name, before and after a change of the schema.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_GUARDED_HOOK_H
#define CQRS_GUARDED_HOOK_H

#include "postgres.h"

#include "nodes/pg_list.h"

/* The functions that have the name that a master gives, at one moment. */
typedef struct CqrsGuardedHook CqrsGuardedHook;

/* The functions that masters (CqrsMasterRow) name: CqrsGuardedHook. */
extern List *cqrs_guarded_hook_list(List *rows);

/*
 * Raise an error if one of these functions is gone or VOLATILE now, and the
 * master has none that fits any more.
 */
extern void cqrs_guarded_hook_check(const CqrsGuardedHook *before);

/*
 * Functions of masters that run with the rights of the tables' owners, and belong
 * to other roles: CqrsForeignFunction, for cqrs_function_warn_foreign().
 */
extern List *cqrs_guarded_hook_foreign(List *rows);

#endif							/* CQRS_GUARDED_HOOK_H */
