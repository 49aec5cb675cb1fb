/*-------------------------------------------------------------------------
 *
 * pack.h
 *	  Messages packed into one value, as the rows of segments hold them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_PACK_H
#define CQRS_PACK_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "outbox/message.h"

/* Columns of a segment */
enum
{
	SEGMENT_ID = 1,
	SEGMENT_LAST_ID,
	SEGMENT_COMMITTED_AT,
	SEGMENT_MESSAGES,
	SEGMENT_NATTS = SEGMENT_MESSAGES
};

/* A pack holds at most so many messages, all of one batch. */
#define CQRS_PACK_MESSAGES	200

/* Append a message to the contents of a pack; its id is told by its place. */
extern void cqrs_pack_append(StringInfo contents, const CqrsMessage *message);

/*
 * A value with these contents, for a column of type bytea: compressed where
 * that is worth it.  palloc'd.
 */
extern Datum cqrs_pack_value(const char *contents, int length);

/* Reading of a pack. */
typedef struct CqrsPackReader
{
	const char *next;
	const char *end;
	int64		next_id;
} CqrsPackReader;

/*
 * Read the pack "value", whose first message has that id.  What is palloc'd,
 * if anything, is in the current context; the value has to stay.
 */
extern void cqrs_pack_open(CqrsPackReader *reader, Datum value,
						   int64 first_id);

/*
 * The next message, or false at the end.  Its strings point into the pack;
 * committed_at is left alone.
 */
extern bool cqrs_pack_next(CqrsPackReader *reader, CqrsMessage *message);

#endif							/* CQRS_PACK_H */
