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

#include "window.h"

typedef struct CqrsReader CqrsReader;

/* Start reading above "watermark". */
extern CqrsReader *cqrs_reader_create(int64 watermark);

/*
 * Put what is visible to the active snapshot and has not been read yet into
 * the window, as far as there is room.  Returns whether more is left.
 */
extern bool cqrs_reader_read(CqrsReader *reader, CqrsWindow *window);

/* Whether batches are missing that may still come or turn out to be void. */
extern bool cqrs_reader_has_holes(const CqrsReader *reader);

/* Up to which id everything is confirmed or was rolled back. */
extern int64 cqrs_reader_watermark(const CqrsReader *reader,
								   const CqrsWindow *window);

#endif							/* CQRS_READER_H */
