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

/* The most messages that a pack holds.  All are of one batch. */
#define CQRS_PACK_MESSAGES	200

/* Append a message to the contents of a pack.  Its position gives its id. */
extern void cqrs_pack_append(StringInfo contents, const CqrsMessage *message);

/*
 * A palloc'd value with these contents, for a column of type bytea, compressed
 * if that is worth it.
 */
extern Datum cqrs_pack_value(const char *contents, int length);

/* The state of reading a pack. */
typedef struct CqrsPackReader
{
	const char *next;
	const char *end;
	int64		next_id;
} CqrsPackReader;

/*
 * Begin to read the pack "value", whose first message has the id "first_id".
 * Memory is allocated, if need be, in the current context.  The value has to
 * stay valid while the pack is read.
 */
extern void cqrs_pack_open(CqrsPackReader *reader, Datum value,
						   int64 first_id);

/*
 * The next message, or false at the end.  Its strings point into the pack;
 * committed_at is not changed.
 */
extern bool cqrs_pack_next(CqrsPackReader *reader, CqrsMessage *message);

#endif							/* CQRS_PACK_H */
