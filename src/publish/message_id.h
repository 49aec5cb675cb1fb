/*-------------------------------------------------------------------------
 *
 * message_id.h
 *	  The id that a message has at the broker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_MESSAGE_ID_H
#define CQRS_MESSAGE_ID_H

#include "postgres.h"

/*
 * The palloc'd message id of the message that has "id" in the outbox of
 * "identity".  A message that is sent again has the same one.
 */
extern char *cqrs_message_id_make(const char *identity, int64 id);

/*
 * Find "id" in a message id that cqrs_message_id_make() has made for
 * "identity".  Returns false for any other text.
 */
extern bool cqrs_message_id_parse(const char *message_id, const char *identity,
								  int64 *id);

#endif							/* CQRS_MESSAGE_ID_H */
