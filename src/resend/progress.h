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
	CQRS_PROGRESS_DUMP
} CqrsProgressKind;

typedef enum CqrsProgressPhase
{
	CQRS_PROGRESS_READING = 1,
	CQRS_PROGRESS_WAITING		/* for the publisher */
} CqrsProgressPhase;

typedef struct CqrsProgress
{
	const char *cqrs_id;
	double		estimate;		/* of rows */
	int64		rows;
	TimestampTz begun_at;
	TimestampTz logged_at;		/* when the last notice was given */
} CqrsProgress;

/* Shortest time between two notices. */
#define CQRS_PROGRESS_INTERVAL_MS	5000

extern void cqrs_progress_begin(CqrsProgress *progress, CqrsProgressKind kind,
								const char *cqrs_id, Oid relid,
								double estimate);

/*
 * Report the rows and bytes done so far, and the last key, which may be NULL.
 * Gives a notice if the last one is old enough.
 */
extern void cqrs_progress_update(CqrsProgress *progress,
								 CqrsProgressPhase phase, int64 rows,
								 int64 bytes, const char *key);

extern void cqrs_progress_end(CqrsProgress *progress);

#endif							/* CQRS_PROGRESS_H */
