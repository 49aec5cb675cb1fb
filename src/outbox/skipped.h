/*-------------------------------------------------------------------------
 *
 * skipped.h
 *	  Messages of the outbox that no publisher sends, because they are parked.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_SKIPPED_H
#define CQRS_SKIPPED_H

#include "postgres.h"

/* What has come of an attempt to have a message skipped. */
typedef enum CqrsSkip
{
	CQRS_SKIP_ADDED,			/* skipped from the commit on */
	CQRS_SKIP_BEFORE,			/* was skipped already */
	CQRS_SKIP_BUSY				/* another transaction, which has not ended,
								 * is at the same message; nothing was done */
} CqrsSkip;

/* Have a message skipped.  Does not wait for other transactions. */
extern CqrsSkip cqrs_skipped_add(int64 id);

/*
 * Set *ids to the ids of skipped messages above "id", in ascending order and
 * in TopMemoryContext.  Returns their number.
 */
extern int	cqrs_skipped_above(int64 id, int64 **ids);

/* Whether "id" is among these ids. */
extern bool cqrs_skipped_has(const int64 *ids, int nids, int64 id);

/*
 * Forget messages up to the watermark, which has to be saved.  For one
 * publisher of a database only.
 */
extern void cqrs_skipped_forget(int64 watermark);

#endif							/* CQRS_SKIPPED_H */
