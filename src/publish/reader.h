/*-------------------------------------------------------------------------
 *
 * reader.h
 *	  What of the outbox is to be published next.
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
 * Start reading above "watermark" what belongs to that lane; in a transaction.
 * Messages of masters in "holds" are put into the window only as the holds
 * allow.
 */
extern CqrsReader *cqrs_reader_create(const CqrsWorker *worker, int64 watermark,
									  CqrsHolds *holds);

/*
 * Put what is visible to the active snapshot and has not been read yet into
 * the window, as far as there is room.  Returns whether more is left.  What
 * cannot be sent at all is parked; so the watermark may be saved only after
 * the transaction's commit, which then is a synchronous one.
 */
extern bool cqrs_reader_read(CqrsReader *reader, CqrsWindow *window);

/* Whether batches are missing that may still come or turn out to be void. */
extern bool cqrs_reader_has_holes(const CqrsReader *reader);

/* Up to which id everything is confirmed or was rolled back. */
extern int64 cqrs_reader_watermark(const CqrsReader *reader,
								   const CqrsWindow *window);

/* The lowest id that was read and is not confirmed, else PG_INT64_MAX. */
extern int64 cqrs_reader_min_unconfirmed(const CqrsReader *reader,
										 const CqrsWindow *window);

#endif							/* CQRS_READER_H */
