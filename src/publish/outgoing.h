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
 * Make a message, in UTF-8 and in one piece of memory of "context".  Returns
 * NULL, with the reason in *error, if the broker of cqrs.url rejects messages
 * of its size, or if the message has characters that UTF-8 does not have.
 * Temporary memory is left in the current context.  Needs a transaction.
 */
extern CqrsOutgoing *cqrs_outgoing_build(const CqrsMessage *message,
										 MemoryContext context, char **error);

#endif							/* CQRS_OUTGOING_H */
