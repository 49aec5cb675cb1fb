/*-------------------------------------------------------------------------
 *
 * launcher.h
 *	  The process that keeps workers in each database that needs them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LAUNCHER_H
#define CQRS_LAUNCHER_H

#include "postgres.h"

/* Register the launcher; called once, while the library is preloaded. */
extern void cqrs_launcher_init(void);

/* Entry point of the background worker. */
extern PGDLLEXPORT void cqrs_launcher_main(Datum arg);

#endif							/* CQRS_LAUNCHER_H */
