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
 * In PG_CATCH(): copy the error into the current context.  An extension may
 * raise an error without a message; here it has one, as in the server's log, so
 * that a message stands for an error.
 */
extern ErrorData *cqrs_caught_copy(void);

/*
 * In PG_CATCH(): abort the current transaction, and take the error.  The error is
 * in "context", which becomes the current one.
 */
extern ErrorData *cqrs_caught_abort(MemoryContext context);

#endif							/* CQRS_CAUGHT_H */
