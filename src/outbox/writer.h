/*-------------------------------------------------------------------------
 *
 * writer.h
 *	  The messages that wait: writing, the watermark, and recycling.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_WRITER_H
#define CQRS_WRITER_H

#include "postgres.h"

#include "outbox/message.h"

typedef struct CqrsOutboxWriter CqrsOutboxWriter;

/* Ask for the shared memory; called once, while the library is preloaded. */
extern void cqrs_outbox_init(void);

/* The next batch of ids in a database, 0 when it is not known yet. */
extern uint64 cqrs_outbox_next_batch(int slot);

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

/* The watermark: every id up to it is published or was rolled back. */
extern int64 cqrs_outbox_watermark(void);
extern void cqrs_outbox_set_watermark(int64 watermark);

/*
 * Empty segments that are published as a whole, and choose the one to write
 * to.  "idle" says that nothing is pending.  Takes only locks that are free;
 * returns false when one was not, so that it is worth trying again.
 */
extern bool cqrs_outbox_recycle(int64 watermark, bool idle);

#endif							/* CQRS_WRITER_H */
