/*-------------------------------------------------------------------------
 *
 * progress.h
 *	  Progress of long commands: for cqrs.progress_sync, and as notices.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_PROGRESS_H
#define CQRS_PROGRESS_H

#include "postgres.h"

#include "datatype/timestamp.h"

typedef enum CqrsProgressKind
{
	CQRS_PROGRESS_SYNC = 1,
	CQRS_PROGRESS_DUMP,
	CQRS_PROGRESS_LOAD
} CqrsProgressKind;

typedef enum CqrsProgressPhase
{
	CQRS_PROGRESS_READING = 1,
	CQRS_PROGRESS_WAITING,		/* for the publisher */
	CQRS_PROGRESS_APPLYING
} CqrsProgressPhase;

typedef struct CqrsProgress
{
	CqrsProgressKind kind;
	Oid			relid;
	const char *cqrs_id;
	double		estimate;		/* of rows */
	int64		rows;
	TimestampTz begun_at;
	TimestampTz logged_at;		/* when the last notice was given */
} CqrsProgress;

/* Shortest time between two notices. */
#define CQRS_PROGRESS_INTERVAL_MS	5000

/*
 * Report that work on a table, of about "estimate" rows, begins.  The name has
 * to stay.
 */
extern void cqrs_progress_begin(CqrsProgress *progress, CqrsProgressKind kind,
								const char *cqrs_id, Oid relid,
								double estimate);

/* Report again, after the abort of a subtransaction has ended the report. */
extern void cqrs_progress_resume(const CqrsProgress *progress);

/*
 * Report the rows and bytes done so far, and the last key, which may be NULL.
 * Gives a notice if the last one is old enough.
 */
extern void cqrs_progress_update(CqrsProgress *progress,
								 CqrsProgressPhase phase, int64 rows,
								 int64 bytes, const char *key);

extern void cqrs_progress_end(CqrsProgress *progress);

#endif							/* CQRS_PROGRESS_H */
