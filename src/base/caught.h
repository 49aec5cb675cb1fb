/*-------------------------------------------------------------------------
 *
 * caught.h
 *	  Errors that are caught.
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

/*
 * Whether an error is the cancel of the statement: by a user, or by a timeout.
 * A function of a user can raise an error of the same SQLSTATE, which is none.
 */
extern bool cqrs_caught_is_cancel(const ErrorData *error);

#endif							/* CQRS_CAUGHT_H */
