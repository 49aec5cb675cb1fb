/*-------------------------------------------------------------------------
 *
 * reader.h
 *	  Reading of the messages that are to be published next.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_READER_H
#define CQRS_READER_H

#include "postgres.h"

#include "publish/hold.h"
#include "publish/lane.h"
#include "publish/window.h"

typedef struct CqrsReader CqrsReader;

/*
 * Start to read the messages of the worker's lane above "watermark".  Messages
 * of masters in "holds" are put into the window only as the holds allow.  Each
 * of the four parts of a turn, holes, the probe, holds and what is new, looks at
 * "look_turn" messages at most.  Needs a transaction.
 */
extern CqrsReader *cqrs_reader_create(const CqrsWorker *worker, int64 watermark,
									  CqrsHolds *holds, int look_turn);

/*
 * Put messages that are visible to the active snapshot and have not been read
 * yet into the window, as far as there is room.  Returns whether more are
 * left.  A message that cannot be sent at all is parked.  So the watermark may
 * be saved only after the commit of the transaction, which is then a
 * synchronous one.
 */
extern bool cqrs_reader_read(CqrsReader *reader, CqrsWindow *window);

/* Whether batches are missing that may still become visible or be void. */
extern bool cqrs_reader_has_holes(const CqrsReader *reader);

/* The id up to which everything is confirmed or was rolled back. */
extern int64 cqrs_reader_watermark(const CqrsReader *reader,
								   const CqrsWindow *window);

/*
 * The lowest id that was read and is not confirmed, PG_INT64_MAX if none is.
 */
extern int64 cqrs_reader_min_unconfirmed(const CqrsReader *reader,
										 const CqrsWindow *window);

#endif							/* CQRS_READER_H */
