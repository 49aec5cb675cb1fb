/*-------------------------------------------------------------------------
 *
 * incoming.h
 *	  Messages as values of the type cqrs.message.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_INCOMING_H
#define CQRS_INCOMING_H

#include "postgres.h"

#include "apply/envelope.h"

/* The message that is being applied, or NULL. */
extern const CqrsIncoming *cqrs_incoming_current;

/* A message as a value, and back, in the current context. */
extern Datum cqrs_incoming_to_datum(const CqrsIncoming *message);
extern void cqrs_incoming_from_datum(Datum value, CqrsIncoming *message);

#endif							/* CQRS_INCOMING_H */
