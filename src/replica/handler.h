/*-------------------------------------------------------------------------
 *
 * handler.h
 *	  The functions that a replica names.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_HANDLER_H
#define CQRS_HANDLER_H

#include "postgres.h"

#include "define/function.h"

/*
 * What handlers and retry functions have to be, for cqrs_function_find().  The
 * result is static.
 */
extern const CqrsFunctionKind *cqrs_handler_kind(void);
extern const CqrsFunctionKind *cqrs_handler_retry_kind(void);

#endif							/* CQRS_HANDLER_H */
