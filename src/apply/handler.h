/*-------------------------------------------------------------------------
 *
 * handler.h
 *	  The handler of a replica, called.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_HANDLER_H
#define CQRS_HANDLER_H

#include "postgres.h"

#include "apply/envelope.h"
#include "apply/plan.h"

/*
 * Call the handler with a message, as the current user, who is the owner.
 * Raises an error if it does not return true.
 */
extern void cqrs_handler_call(CqrsPlan *plan, const CqrsIncoming *message);

#endif							/* CQRS_HANDLER_H */
