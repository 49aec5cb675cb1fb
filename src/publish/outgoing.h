/*-------------------------------------------------------------------------
 *
 * outgoing.h
 *	  A message of the outbox, made ready for the broker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_OUTGOING_H
#define CQRS_OUTGOING_H

#include "postgres.h"

#include "outbox/message.h"
#include "publish/window.h"

/*
 * Make a message, in UTF-8 and in one piece of memory of "context".  NULL, with
 * the reason in *error, when the broker of cqrs.url refuses messages of its
 * size, or it has characters that UTF-8 has not.  What else is needed for it is
 * left in the current context.  In a transaction.
 */
extern CqrsOutgoing *cqrs_outgoing_build(const CqrsMessage *message,
										 MemoryContext context, char **error);

#endif							/* CQRS_OUTGOING_H */
