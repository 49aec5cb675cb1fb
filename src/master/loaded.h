/*-------------------------------------------------------------------------
 *
 * loaded.h
 *	  Masters that the session restores from a dump.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LOADED_H
#define CQRS_LOADED_H

#include "postgres.h"

/* Whether this session has loaded the master, and perhaps its rows as well. */
extern bool cqrs_loaded_has(const char *cqrs_id);

/* A master of that name is new: not one that was loaded and then removed. */
extern void cqrs_loaded_forget(const char *cqrs_id);

#endif							/* CQRS_LOADED_H */
