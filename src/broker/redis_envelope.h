/*-------------------------------------------------------------------------
 *
 * redis_envelope.h
 *	  The JSON in which Kombu wraps messages, read.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_REDIS_ENVELOPE_H
#define CQRS_REDIS_ENVELOPE_H

#include "postgres.h"

#include "broker/transport.h"

/*
 * Make a delivery of an envelope, as one chunk of memory in "context"; only
 * tag and redelivered are left to be set.  A text that is not an envelope
 * becomes the body of a delivery.  *mark and *mark_length are a short part of
 * the envelope that distinguishes it from others.  Returns NULL if memory is
 * short.
 */
extern CqrsDelivery *cqrs_redis_envelope_read(MemoryContext context,
											  const char *envelope, Size length,
											  const char **mark, Size *mark_length);

#endif							/* CQRS_REDIS_ENVELOPE_H */
