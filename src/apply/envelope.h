/*-------------------------------------------------------------------------
 *
 * envelope.h
 *	  The envelope of a message, read.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_ENVELOPE_H
#define CQRS_ENVELOPE_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "apply/json_scan.h"
#include "base/signal.h"

/*
 * A message as it has arrived.  Strings are in the encoding of the database.
 * Strings of JSON are valid JSON.  A null is NULL, unless a note says
 * otherwise.
 */
typedef struct CqrsIncoming
{
	/* Filled in by the caller. */
	const char *body;			/* as it arrived: UTF-8, not checked */
	Size		length;
	const char *message_id;		/* of the broker's envelope, or NULL */
	bool		direct;			/* came by a routing key "cqrs.<queue>..." */
	TimestampTz not_after;		/* a DELETE leaves rows whose cqrs_updated is
								 * later; 0: none */

	/* Filled in by cqrs_envelope_read(). */
	CqrsSignal	signal;
	char	   *cqrs_id;
	char	   *instance_pk;	/* JSON without insignificant space; messages
								 * of one row have the same */
	char	   *instance_data;	/* JSON, an object */
	CqrsJsonMembers data;		/* the members of instance_data */
	char	   *previous_data;	/* JSON, or NULL */
	char	   *meta;			/* JSON, or NULL */
	char	   *correlation_id; /* or NULL */
	int			retries;		/* 0 if absent */
	bool		expires;		/* whether the message ever expires */
	TimestampTz expires_at;
} CqrsIncoming;

/*
 * Read a body.  Returns NULL, or a sentence that says why this is no message:
 * no JSON, no UTF-8, a missing key, an unknown signal, and so on.  Fields that
 * were read before the problem was found stay set; other fields are NULL.
 * Numbers and strings of instance_data are not looked at.
 *
 * Allocates in the current context.  Raises no error but for lack of memory.
 */
extern char *cqrs_envelope_read(CqrsIncoming *message);

/*
 * The revision of the row in a SAVE or a SYNC, under this key of
 * instance_data.  Returns false if there is no valid one.
 */
extern bool cqrs_envelope_revision(const CqrsIncoming *message, const char *key,
								   int64 *revision);

/*
 * A key as "instance_pk" of CqrsIncoming has it.  Returns NULL if it has
 * characters that the database cannot store.
 */
extern char *cqrs_envelope_compact_key(const CqrsJsonValue *key);

#endif							/* CQRS_ENVELOPE_H */
