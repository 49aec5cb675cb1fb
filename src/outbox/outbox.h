/*-------------------------------------------------------------------------
 *
 * outbox.h
 *	  Writing of the outbox, the watermark, and recycling of segments.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_OUTBOX_H
#define CQRS_OUTBOX_H

#include "postgres.h"

#include "outbox/message.h"

typedef struct CqrsOutboxWriter CqrsOutboxWriter;

/* Ask for the shared memory; called once, while the library is preloaded. */
extern void cqrs_outbox_init(void);

/* The next batch of ids in a database, 0 if it is not known yet. */
extern uint64 cqrs_outbox_next_batch(int slot);

/*
 * Write the messages of the current transaction.  begin() allocates in the
 * current context, append() copies the message.  Messages get ids in the order
 * of the calls.  The writer sets id and committed_at itself.
 */
extern CqrsOutboxWriter *cqrs_outbox_begin(void);
extern void cqrs_outbox_append(CqrsOutboxWriter *writer,
							   const CqrsMessage *message);
extern void cqrs_outbox_end(CqrsOutboxWriter *writer);

/*
 * Draw a new batch, so that later messages get ids above all that any
 * transaction has drawn by now.
 */
extern void cqrs_outbox_draw_batch(CqrsOutboxWriter *writer);

/* Draw an id for a message that is parked instead of being appended. */
extern int64 cqrs_outbox_draw_id(CqrsOutboxWriter *writer);

/* The watermark: every id up to it is published or was rolled back. */
extern int64 cqrs_outbox_watermark(void);
extern void cqrs_outbox_set_watermark(int64 watermark);

/*
 * Empty segments that are published as a whole, and choose the segment to
 * write to.  "idle" says that nothing is pending.  Takes only locks that are
 * free.  Returns false if a lock was not free: the caller should then try
 * again later.
 */
extern bool cqrs_outbox_recycle(int64 watermark, bool idle);

#endif							/* CQRS_OUTBOX_H */
