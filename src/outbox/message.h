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

/*
 * A message in its parts: strings that may be NULL.  What is true of each is in
 * cqrs_message_parts (message.c).
 */
typedef struct CqrsMessage
{
	int64		id;
	TimestampTz committed_at;
	CqrsSignal	signal;
	const char *cqrs_id;
	const char *instance_pk;
	const char *instance_data;
	const char *previous_data;
	const char *meta;
	const char *queue;
	const char *correlation_id;
	const char *exchange;		/* NULL: cqrs.exchange */
	const char *routing_key;	/* NULL: the usual one */
	int			ttl_s;			/* 0: none, -1: cqrs.message_ttl */
} CqrsMessage;

typedef enum CqrsPartType
{
	CQRS_PART_TEXT,				/* const char *; may be NULL */
	CQRS_PART_JSON,				/* the same, and put into the body as it is */
	CQRS_PART_INT				/* int; negative stands for NULL */
} CqrsPartType;

/* What packs, cqrs.parked, cqrs.unpack() and the publisher know of a part. */
typedef struct CqrsMessagePart
{
	const char *name;			/* of its column */
	Size		offset;			/* in CqrsMessage */
	CqrsPartType type;
	uint8		bit;			/* in packs, where it is there; 0: in all */
	const char *property;		/* its name as a property of what is sent;
								 * NULL: none */
} CqrsMessagePart;

/* The parts besides id, committed_at and signal, in the order of packs. */
extern const CqrsMessagePart cqrs_message_parts[];
extern const int cqrs_message_nparts;

static inline const char **
cqrs_message_part_text(const CqrsMessagePart *part, const CqrsMessage *message)
{
	Assert(part->type != CQRS_PART_INT);
	return (const char **) ((char *) message + part->offset);
}

static inline int *
cqrs_message_part_int(const CqrsMessagePart *part, const CqrsMessage *message)
{
	Assert(part->type == CQRS_PART_INT);
	return (int *) ((char *) message + part->offset);
}

/* A part as a value of SQL: a text or an integer. */
extern Datum cqrs_message_part_get(const CqrsMessagePart *part,
								   const CqrsMessage *message, bool *isnull);
extern void cqrs_message_part_set(const CqrsMessagePart *part, CqrsMessage *message,
								  Datum value, bool isnull);

/* Replace the texts of a message by copies in the current context. */
extern void cqrs_message_copy_texts(CqrsMessage *message);

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

/* Write "expires" of a message that lives so many seconds from now. */
#define CQRS_EXPIRES_LEN	25
extern void cqrs_message_expires(char *buf, int ttl_s);

#endif							/* CQRS_MESSAGE_H */
