/*-------------------------------------------------------------------------
 *
 * message.h
 *	  A message in its parts, and its body.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_MESSAGE_H
#define CQRS_MESSAGE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"

#include "base/signal.h"

/*
 * The ids of one batch are CQRS_BATCH_ROWS consecutive numbers; a batch
 * becomes visible as a whole, when its transaction commits.
 */
#define CQRS_BATCH_ROWS		INT64CONST(100000)
#define cqrs_batch_of(id)			((id) / CQRS_BATCH_ROWS)
#define cqrs_batch_first_id(batch)	((batch) * CQRS_BATCH_ROWS)

/* A message in its parts.  Strings are JSON where noted, and may be NULL. */
typedef struct CqrsMessage
{
	int64		id;
	TimestampTz committed_at;
	CqrsSignal	signal;
	const char *cqrs_id;
	const char *instance_pk;	/* JSON */
	const char *instance_data;	/* JSON */
	const char *previous_data;	/* JSON or NULL */
	const char *meta;			/* JSON or NULL */
	const char *queue;			/* or NULL */
	const char *correlation_id; /* or NULL */
	const char *exchange;		/* NULL: cqrs.exchange */
	const char *routing_key;	/* NULL: the usual one */
	int			ttl_s;			/* 0: none, -1: cqrs.message_ttl */
} CqrsMessage;

/* The routing key of a message, palloc'd. */
extern char *cqrs_message_routing_key(const CqrsMessage *message);

/* The time to live of a message in seconds, 0 for none. */
extern int	cqrs_message_ttl(const CqrsMessage *message);

/*
 * Append the body of a message, in the encoding of the database.  The offset
 * of the 25 characters of "expires" in "out" is put into *expires_at, or -1
 * when the message does not expire.
 */
extern void cqrs_message_body(StringInfo out, const CqrsMessage *message,
							  int *expires_at);

/*
 * Write a point in time in the format of "expires": 25 characters, and a zero.
 */
#define CQRS_EXPIRES_LEN	25
extern void cqrs_message_expires(char *buf, TimestampTz time);

#endif							/* CQRS_MESSAGE_H */
