/*-------------------------------------------------------------------------
 *
 * team.h
 *	  The workers of a kind in a database, as the launcher starts them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_TEAM_H
#define CQRS_TEAM_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "postmaster/bgworker.h"

#include "base/limits.h"
#include "worker/kind.h"

/* In the launcher's memory; zeroed, but for dboid and kind, at first. */
typedef struct CqrsTeam
{
	Oid			dboid;
	CqrsWorkerKind kind;
	bool		settled;		/* its number of workers is the setting's */
	TimestampTz started_at[CQRS_MAX_LANES]; /* last start tried, 0: none */
	BackgroundWorkerHandle *handles[CQRS_MAX_LANES];	/* NULL: none */
} CqrsTeam;

/*
 * Make the team have as many workers as the setting says.  If the team has
 * another number, all workers are asked to end, and none is started until all
 * have ended.
 */
extern void cqrs_team_settle(CqrsTeam *team);

/* Whether a worker runs, or is about to; whether any does. */
extern bool cqrs_team_is_running(CqrsTeam *team, int number);
extern bool cqrs_team_is_any_running(CqrsTeam *team);

/*
 * The delay in milliseconds before a worker that does not run is started: 0 if
 * none, -1 if it is not to be started.  "unasked_ms": the same for a worker of a
 * kind that is not wanted.
 */
extern long cqrs_team_delay_ms(const CqrsTeam *team, int number, long unasked_ms);

/* Start a worker.  False, after a warning, if no background worker is free. */
extern bool cqrs_team_start(CqrsTeam *team, int number);

#endif							/* CQRS_TEAM_H */
