/*-------------------------------------------------------------------------
 *
 * utility_hook.h
 *	  Commands that publishers have to hear of.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_UTILITY_HOOK_H
#define CQRS_UTILITY_HOOK_H

#include "postgres.h"

/* Install the hook; called once, while the library is preloaded. */
extern void cqrs_utility_init(void);

#endif							/* CQRS_UTILITY_HOOK_H */
