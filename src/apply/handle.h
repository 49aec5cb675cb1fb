/*-------------------------------------------------------------------------
 *
 * handle.h
 *	  The handler of a replica, called.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_HANDLE_H
#define CQRS_HANDLE_H

#include "postgres.h"

#include "apply/envelope.h"
#include "apply/plan.h"

/*
 * Call the handler with a message, as the current user, who is the owner.
 * Raises an error if it does not return true.
 */
extern void cqrs_handle_message(CqrsPlan *plan, const CqrsIncoming *message);

#endif							/* CQRS_HANDLE_H */
