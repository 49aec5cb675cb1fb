/*-------------------------------------------------------------------------
 *
 * team.c
 *	  The workers of a kind in a database, as the launcher starts them.
 *
 * The number of workers of a kind in a database is a setting of the kind's
 * class, such as cqrs.publishers.  The number decides which worker has which
 * work, so all workers must have the same number.  When the setting has
 * changed, they are asked to end; the new number becomes current when none of
 * them is left, and then new ones are started.
 *
 * A worker that ends is started again after RESTART_DELAY_MS, unless it has
 * reported that its kind is not wanted any more.
 *
 * A worker that an earlier launcher has started has no handle here.  It is
 * known by its process in shared memory (roster.h).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/slot.h"
#include "base/timing.h"
#include "worker/roster.h"
#include "worker/team.h"

/* Delay before a worker that has ended is started again. */
#define RESTART_DELAY_MS	1000
/* The lack of a free worker slot is logged at most once in this time. */
#define WARN_INTERVAL_MS	60000

/* By kind: no worker was free, and that was logged; when it was last logged. */
static bool out_of_workers[CQRS_NWORKERKINDS] = {false};
static TimestampTz warned_at[CQRS_NWORKERKINDS] = {0};

static void warn_no_worker(CqrsWorkerKind kind, int number);

void
cqrs_team_settle(CqrsTeam *team)
{
	const CqrsWorkerClass *class = cqrs_kind_class(team->kind);
	int			slot = cqrs_slot_find(team->dboid);
	uint32		count;

	team->settled = slot < 0;
	if (slot < 0 || class == NULL)
		return;
	count = pg_atomic_read_u32(&cqrs_rosters[slot].kinds[team->kind].count);
	if (count != *class->count && !cqrs_team_is_any_running(team))
	{
		LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
		/* An earlier launcher may have started one. */
		if (!cqrs_roster_has_processes(slot, team->kind))
			cqrs_roster_set_count(slot, team->kind, *class->count);
		count = pg_atomic_read_u32(&cqrs_rosters[slot].kinds[team->kind].count);
		LWLockRelease(cqrs_slot_lock);
	}
	/* If the number is 0, the first worker to start sets it. */
	if (count != *class->count && count > 0)
	{
		for (int i = 0; i < CQRS_MAX_LANES; i++)
		{
			if (team->handles[i] != NULL)
				TerminateBackgroundWorker(team->handles[i]);
		}
		cqrs_roster_end(slot, team->kind);
	}
	team->settled = count == *class->count;
}

bool
cqrs_team_is_running(CqrsTeam *team, int number)
{
	BackgroundWorkerHandle **handle = &team->handles[number];
	int			slot = cqrs_slot_find(team->dboid);
	pid_t		pid;

	if (*handle != NULL)
	{
		if (GetBackgroundWorkerPid(*handle, &pid) != BGWH_STOPPED)
			return true;
		pfree(*handle);
		*handle = NULL;
	}
	return slot >= 0 &&
		*(volatile pid_t *) &cqrs_rosters[slot].kinds[team->kind].processes[number].pid != 0;
}

bool
cqrs_team_is_any_running(CqrsTeam *team)
{
	for (int number = 0; number < CQRS_MAX_LANES; number++)
	{
		if (cqrs_team_is_running(team, number))
			return true;
	}
	return false;
}

long
cqrs_team_delay_ms(const CqrsTeam *team, int number, long unasked_ms)
{
	int			slot = cqrs_slot_find(team->dboid);
	TimestampTz started_at = team->started_at[number];
	bool		wanted = false;
	long		hold_ms = 0;
	long		delay_ms = unasked_ms;

	if (slot >= 0)
	{
		if (!team->settled)
			return -1;
		LWLockAcquire(cqrs_slot_lock, LW_SHARED);
		wanted = cqrs_rosters[slot].kinds[team->kind].wanted;
		hold_ms = cqrs_until_within_ms(cqrs_rosters[slot].hold_until,
									   CQRS_HOLD_MS);
		LWLockRelease(cqrs_slot_lock);
	}
	if (wanted)
		delay_ms = started_at == 0 ? 0 :
			cqrs_until_after_ms(started_at, RESTART_DELAY_MS);
	return delay_ms < 0 ? -1 : Max(delay_ms, hold_ms);
}

bool
cqrs_team_start(CqrsTeam *team, int number)
{
	const CqrsWorkerClass *class = cqrs_kind_class(team->kind);
	BackgroundWorker worker = {0};
	int			extra[2] = {team->kind, number};
	MemoryContext caller;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(team->dboid);
	worker.bgw_notify_pid = MyProcPid;
	memcpy(worker.bgw_extra, extra, sizeof(extra));
	strlcpy(worker.bgw_library_name, "cqrs", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "cqrs_worker_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN,
			 *class->count == 1 ? "cqrs %s for database %u" :
			 "cqrs %s for database %u lane %d", class->name, team->dboid,
			 number);
	snprintf(worker.bgw_type, BGW_MAXLEN, "cqrs %s", class->name);

	caller = MemoryContextSwitchTo(TopMemoryContext);
	team->started_at[number] = GetCurrentTimestamp();
	if (!RegisterDynamicBackgroundWorker(&worker, &team->handles[number]))
	{
		team->handles[number] = NULL;
		warn_no_worker(team->kind, number);
	}
	else
		out_of_workers[team->kind] = false;
	MemoryContextSwitchTo(caller);
	return team->handles[number] != NULL;
}

/*
 * Warn once until a start succeeds, and at most once in WARN_INTERVAL_MS in
 * case only some starts succeed.
 */
static void
warn_no_worker(CqrsWorkerKind kind, int number)
{
	if (out_of_workers[kind] ||
		cqrs_until_after_ms(warned_at[kind], WARN_INTERVAL_MS) > 0)
		return;
	out_of_workers[kind] = true;
	warned_at[kind] = GetCurrentTimestamp();
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("no background worker is free for a cqrs %s",
					cqrs_kind_class(kind)->name),
			 number == 0 ?
			 errdetail("Messages wait until a worker is free.") :
			 errdetail("The messages of lane %d wait until a worker is free.",
					   number),
			 errhint("Increase \"max_worker_processes\" and restart the server.")));
}
