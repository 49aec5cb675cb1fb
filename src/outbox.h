/*-------------------------------------------------------------------------
 *
 * outbox.h
 *	  The messages that wait, and those that have been published since the
 *	  last clean-up.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_OUTBOX_H
#define CQRS_OUTBOX_H

#include "postgres.h"

#include "access/sdir.h"
#include "datatype/timestamp.h"
#include "lib/stringinfo.h"

/*
 * The ids of one batch are CQRS_BATCH_ROWS consecutive numbers; a batch
 * becomes visible as a whole, when its transaction commits.
 */
#define CQRS_BATCH_ROWS		INT64CONST(100000)
#define cqrs_batch_of(id)			((id) / CQRS_BATCH_ROWS)
#define cqrs_batch_first_id(batch)	((batch) * CQRS_BATCH_ROWS)

typedef enum CqrsSignal
{
	CQRS_SAVE = 'S',
	CQRS_DELETE = 'D',
	CQRS_SYNC = 'Y'
} CqrsSignal;

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

typedef struct CqrsOutboxWriter CqrsOutboxWriter;
typedef struct CqrsOutboxScan CqrsOutboxScan;

extern const char *cqrs_signal_name(CqrsSignal signal);

/*
 * Writing, in the transaction whose messages they are.  begin() allocates in
 * the current context, append() copies; messages get their ids in the order of
 * the calls.  id and committed_at are filled in here.
 */
extern CqrsOutboxWriter *cqrs_outbox_begin(void);
extern void cqrs_outbox_append(CqrsOutboxWriter *writer,
							   const CqrsMessage *message);
extern void cqrs_outbox_end(CqrsOutboxWriter *writer);

/* Have further messages get ids above all that anybody has drawn by now. */
extern void cqrs_outbox_draw_batch(CqrsOutboxWriter *writer);

/* An id for a message that is put aside instead of being appended. */
extern int64 cqrs_outbox_draw_id(CqrsOutboxWriter *writer);

/*
 * Reading, under the active snapshot: the messages with from <= id <= to in
 * ascending order.  The strings of a message last until the next call.
 */
extern CqrsOutboxScan *cqrs_outbox_scan_begin(int64 from, int64 to);
extern bool cqrs_outbox_scan_next(CqrsOutboxScan *scan, CqrsMessage *message);
extern void cqrs_outbox_scan_end(CqrsOutboxScan *scan);

/* Write the WAL out up to the commits of all that "scan" has returned. */
extern void cqrs_outbox_scan_flush_wal(CqrsOutboxScan *scan);

/* The watermark: every id up to it is published or was rolled back. */
extern int64 cqrs_outbox_watermark(void);
extern void cqrs_outbox_set_watermark(int64 watermark);

/*
 * Empty segments that are published as a whole, and choose the one to write
 * to.  "idle" says that nothing is pending.  Takes only locks that are free;
 * returns false when one was not, so that it is worth trying again.
 */
extern bool cqrs_outbox_recycle(int64 watermark, bool idle);

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

/* Write a point in time as "expires" has it: 25 characters, and a zero. */
#define CQRS_EXPIRES_LEN	25
extern void cqrs_message_expires(char *buf, TimestampTz time);

#endif							/* CQRS_OUTBOX_H */
