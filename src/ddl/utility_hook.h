/*-------------------------------------------------------------------------
 *
 * utility_hook.h
 *	  The utility hook: guards schema changes, and informs publishers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_UTILITY_HOOK_H
#define CQRS_UTILITY_HOOK_H

#include "postgres.h"

/* Install the hook; called once, while the library is preloaded. */
extern void cqrs_utility_hook_init(void);

#endif							/* CQRS_UTILITY_HOOK_H */
