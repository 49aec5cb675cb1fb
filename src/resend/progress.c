/*-------------------------------------------------------------------------
 *
 * progress.c
 *	  Progress of long commands: for cqrs.progress_sync, and as notices.
 *
 * PostgreSQL has no kind of command for extensions in its progress reports.
 * The kind of COPY is used, whose view shows rows and bytes as well;
 * parameters that COPY does not set hold the real kind.  PostgreSQL itself
 * ends the report when the command fails or the session ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "commands/progress.h"
#include "lib/stringinfo.h"
#include "pgstat.h"
#include "utils/timestamp.h"

#include "resend/progress.h"

/* cqrs--1.0.0.sql has these numbers, plus one */
#define PARAM_MAGIC		16
#define PARAM_KIND		17
#define PARAM_ESTIMATE	18
#define PARAM_PHASE		19

/* "cqrs" in ASCII */
#define MAGIC			INT64CONST(0x63717273)

static const char *noun(const CqrsProgress *progress);
static double seconds_since(TimestampTz begin);
static void tell(CqrsProgress *progress, CqrsProgressPhase phase,
				 const char *key);

void
cqrs_progress_begin(CqrsProgress *progress, CqrsProgressKind kind,
					const char *cqrs_id, Oid relid, double estimate)
{
	progress->kind = kind;
	progress->relid = relid;
	progress->cqrs_id = cqrs_id;
	progress->estimate = estimate;
	progress->rows = 0;
	progress->begun_at = progress->logged_at = GetCurrentTimestamp();
	cqrs_progress_resume(progress);
}

void
cqrs_progress_resume(const CqrsProgress *progress)
{
	const int	params[] = {PARAM_MAGIC, PARAM_KIND, PARAM_ESTIMATE, PARAM_PHASE};
	const int64 values[] = {MAGIC, progress->kind, (int64) progress->estimate, CQRS_PROGRESS_READING};

	pgstat_progress_start_command(PROGRESS_COMMAND_COPY, progress->relid);
	pgstat_progress_update_multi_param(lengthof(params), params, values);
	if (progress->kind == CQRS_PROGRESS_DUMP)
	{
		pgstat_progress_update_param(PROGRESS_COPY_COMMAND,
									 PROGRESS_COPY_COMMAND_TO);
		pgstat_progress_update_param(PROGRESS_COPY_TYPE,
									 PROGRESS_COPY_TYPE_FILE);
	}
}

void
cqrs_progress_update(CqrsProgress *progress, CqrsProgressPhase phase,
					 int64 rows, int64 bytes, const char *key)
{
	const int	params[] = {PROGRESS_COPY_TUPLES_PROCESSED, PROGRESS_COPY_BYTES_PROCESSED, PARAM_PHASE};
	const int64 values[] = {rows, bytes, phase};
	TimestampTz now = GetCurrentTimestamp();

	progress->rows = rows;
	pgstat_progress_update_multi_param(lengthof(params), params, values);
	if (TimestampDifferenceExceeds(progress->logged_at, now,
								   CQRS_PROGRESS_INTERVAL_MS))
	{
		tell(progress, phase, key);
		progress->logged_at = now;
	}
}

void
cqrs_progress_end(CqrsProgress *progress)
{
	double		seconds = seconds_since(progress->begun_at);

	pgstat_progress_end_command();
	ereport(NOTICE,
			(errmsg("%s \"%s\": " INT64_FORMAT " rows in %.1f s, %.0f rows/s",
					noun(progress), progress->cqrs_id, progress->rows, seconds,
					progress->rows / seconds)));
}

/* Report progress as a notice. */
static void
tell(CqrsProgress *progress, CqrsProgressPhase phase, const char *key)
{
	double		rate = progress->rows / seconds_since(progress->begun_at);
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, INT64_FORMAT " rows", progress->rows);

	/*
	 * If there are more rows than estimated, nothing is known about the rest.
	 */
	if (progress->rows < progress->estimate)
	{
		appendStringInfo(&text, " of about %.0f (%.0f %%)", progress->estimate,
						 floor(100 * progress->rows / progress->estimate));
		if (rate > 0)
			appendStringInfo(&text, ", %.0f s to go",
							 (progress->estimate - progress->rows) / rate);
	}
	appendStringInfo(&text, ", %.0f rows/s", rate);
	if (key != NULL)
		appendStringInfo(&text, ", up to %s", key);
	if (phase == CQRS_PROGRESS_WAITING)
		appendStringInfoString(&text, ", waiting for the publisher");
	ereport(NOTICE,
			(errmsg("%s \"%s\": %s", noun(progress), progress->cqrs_id,
					text.data)));
	pfree(text.data);
}

/* The kind of object that the rows belong to. */
static const char *
noun(const CqrsProgress *progress)
{
	return progress->kind == CQRS_PROGRESS_LOAD ? "replica" : "master";
}

/* Never 0, since callers divide by it. */
static double
seconds_since(TimestampTz begin)
{
	return Max(GetCurrentTimestamp() - begin, 1) / (double) USECS_PER_SEC;
}
