/*-------------------------------------------------------------------------
 *
 * error_context.h
 *	  Context lines of errors.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_ERROR_CONTEXT_H
#define CQRS_ERROR_CONTEXT_H

#include "postgres.h"

/*
 * Call "function", which adds to errors by errcontext(), for each error until
 * *callback is popped.  An error that is caught pops it, too.
 */
static inline void
cqrs_error_context_push(ErrorContextCallback *callback,
						void (*function) (void *arg), void *arg)
{
	callback->callback = function;
	callback->arg = arg;
	callback->previous = error_context_stack;
	error_context_stack = callback;
}

static inline void
cqrs_error_context_pop(const ErrorContextCallback *callback)
{
	error_context_stack = callback->previous;
}

#endif							/* CQRS_ERROR_CONTEXT_H */
