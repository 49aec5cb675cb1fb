/*-------------------------------------------------------------------------
 *
 * caught.h
 *	  An error that ends a transaction of a worker, and not the process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_CAUGHT_H
#define CQRS_CAUGHT_H

#include "postgres.h"

/*
 * In PG_CATCH(): abort the current transaction, and take the error.  The error is
 * in "context", which becomes the current one.
 */
extern ErrorData *cqrs_caught_abort(MemoryContext context);

#endif							/* CQRS_CAUGHT_H */
