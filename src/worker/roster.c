/*-------------------------------------------------------------------------
 *
 * roster.c
 *	  The workers that a database has and shall have, in shared memory.
 *
 * A commit wakes the workers that wait for it without a lock.  Latches stay
 * valid memory for the life of the server, so setting a stale one does no
 * harm.  All else is protected by cqrs_slot_lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "base/slot.h"
#include "base/timing.h"
#include "worker/roster.h"

CqrsRoster *cqrs_rosters;
CqrsRosterServer *cqrs_roster_server;

static void init_server(void *element);
static void init_roster(void *element);
static void reset_roster(void *element);

void
cqrs_roster_init(void)
{
	static const CqrsSharedArray server = {
		.name = "cqrs workers of the server",
		.size = sizeof(CqrsRosterServer),
		.elements = (void **) &cqrs_roster_server,
		.init = init_server
	};
	static const CqrsSharedArray rosters = {
		.name = "cqrs workers",
		.size = sizeof(CqrsRoster),
		.by_slot = true,
		.elements = (void **) &cqrs_rosters,
		.init = init_roster,
		.reset = reset_roster
	};

	cqrs_slot_add_array(&server);
	cqrs_slot_add_array(&rosters);
}

bool
cqrs_roster_has_processes(int slot, CqrsWorkerKind kind)
{
	for (int i = 0; i < CQRS_MAX_LANES; i++)
	{
		if (cqrs_rosters[slot].kinds[kind].processes[i].pid != 0)
			return true;
	}
	return false;
}

bool
cqrs_roster_is_occupied(int slot)
{
	for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
	{
		if (cqrs_roster_has_processes(slot, kind))
			return true;
	}
	return false;
}

bool
cqrs_roster_has_counted(int slot, CqrsWorkerKind kind, int number)
{
	const CqrsWorkerClass *class = cqrs_kind_class(kind);
	CqrsRosterProcess *process = &cqrs_rosters[slot].kinds[kind].processes[number];

	for (int i = 0; class != NULL && i < class->first_gauge; i++)
	{
		if (pg_atomic_read_u64(&process->counters[i]) != 0)
			return true;
	}
	return false;
}

void
cqrs_roster_end(int slot, CqrsWorkerKind kind)
{
	CqrsRosterKind *workers = &cqrs_rosters[slot].kinds[kind];

	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	for (int i = 0; i < CQRS_MAX_LANES; i++)
	{
		if (workers->processes[i].pid != 0)
			kill(workers->processes[i].pid, SIGTERM);
	}
	LWLockRelease(cqrs_slot_lock);
}

void
cqrs_roster_set_count(int slot, CqrsWorkerKind kind, int count)
{
	const CqrsWorkerClass *class = cqrs_kind_class(kind);

	Assert(!cqrs_roster_has_processes(slot, kind)); /* I12 */
	if (class->recount != NULL)
		class->recount(slot, count);
	pg_atomic_write_u32(&cqrs_rosters[slot].kinds[kind].count, count);
}

bool
cqrs_roster_enter(CqrsWorker *worker)
{
	int			slot = cqrs_slot_mine();
	CqrsRoster *roster = &cqrs_rosters[slot];
	CqrsRosterKind *workers = &roster->kinds[worker->kind];
	CqrsRosterProcess *process = &workers->processes[worker->number];
	bool		known;
	bool		entered;

	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	/* Whether the launcher knows that the database has the extension. */
	known = workers->wanted && pg_atomic_read_u32(&workers->count) != 0;
	if (pg_atomic_read_u32(&workers->count) == 0)
		cqrs_roster_set_count(slot, worker->kind,
							  *cqrs_kind_class(worker->kind)->count);
	worker->slot = slot;
	worker->count = pg_atomic_read_u32(&workers->count);

	/*
	 * A command may have needed the database without workers since this
	 * process was started.
	 */
	entered = worker->number < worker->count && process->pid == 0 &&
		cqrs_until_within_ms(roster->hold_until, CQRS_HOLD_MS) == 0;
	if (entered)
	{
		process->pid = MyProcPid;
		process->latch = MyLatch;
		process->started_at = GetCurrentTimestamp();
		pg_atomic_write_u32(&process->state, CQRS_WORKER_STARTING);

		/* Have the other workers of the kind started. */
		workers->wanted = true;
		if (!known)
			cqrs_roster_wake_launcher();
	}
	LWLockRelease(cqrs_slot_lock);
	return entered;
}

void
cqrs_roster_want(int slot, CqrsWorkerKind kind)
{
	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	if (!cqrs_rosters[slot].kinds[kind].wanted)
		cqrs_roster_wake_launcher();
	cqrs_rosters[slot].kinds[kind].wanted = true;
	/* A process that finds no work, by an older snapshot, has to look again. */
	pg_atomic_fetch_add_u32(&cqrs_rosters[slot].kinds[kind].calls, 1);
	LWLockRelease(cqrs_slot_lock);
}

void
cqrs_roster_leave(const CqrsWorker *worker)
{
	CqrsRoster *roster = &cqrs_rosters[worker->slot];
	CqrsRosterProcess *process = &roster->kinds[worker->kind].processes[worker->number];
	const CqrsWorkerClass *class = cqrs_kind_class(worker->kind);

	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	process->pid = 0;
	process->latch = NULL;
	process->connected_at = 0;
	pg_atomic_write_u32(&process->listens, 0);
	pg_atomic_write_u32(&process->state, CQRS_WORKER_STOPPED);
	for (int i = class->first_gauge; class->counters[i] != NULL; i++)
		pg_atomic_write_u64(&process->counters[i], 0);
	cqrs_roster_wake_launcher();
	LWLockRelease(cqrs_slot_lock);
	ConditionVariableBroadcast(&roster->left);
}

void
cqrs_roster_wake_launcher(void)
{
	if (cqrs_roster_server->launcher != NULL)
		SetLatch(cqrs_roster_server->launcher);
}

bool
cqrs_roster_wake(int slot, CqrsWorkerKind kind, bool all)
{
	CqrsRosterKind *workers = &cqrs_rosters[slot].kinds[kind];
	uint32		count = pg_atomic_read_u32(&workers->count);
	bool		found = false;

	for (uint32 i = 0; i < count; i++)
	{
		CqrsRosterProcess *process = &workers->processes[i];
		Latch	   *latch = *(Latch *volatile *) &process->latch;

		if (latch == NULL)
			continue;
		if (all || pg_atomic_read_u32(&process->listens) != 0)
			SetLatch(latch);
		found = true;
	}
	return found;
}

static void
init_server(void *element)
{
	CqrsRosterServer *server = element;

	pg_atomic_init_u32(&server->resettled, 0);
}

static void
init_roster(void *element)
{
	CqrsRoster *roster = element;

	ConditionVariableInit(&roster->left);
	pg_atomic_init_u32(&roster->resettled, 0);
	for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
	{
		CqrsRosterKind *workers = &roster->kinds[kind];

		pg_atomic_init_u32(&workers->count, 0);
		pg_atomic_init_u32(&workers->calls, 0);
		for (int i = 0; i < CQRS_MAX_LANES; i++)
		{
			CqrsRosterProcess *process = &workers->processes[i];

			pg_atomic_init_u32(&process->listens, 0);
			pg_atomic_init_u32(&process->state, CQRS_WORKER_STOPPED);
			for (int n = 0; n < CQRS_WORKER_MAX_COUNTERS; n++)
				pg_atomic_init_u64(&process->counters[n], 0);
		}
	}
}

/*
 * No process is in the database that had the slot, and no backend waits for
 * its processes to leave.
 */
static void
reset_roster(void *element)
{
	CqrsRoster *roster = element;

	roster->hold_until = 0;
	roster->since = GetCurrentTimestamp();
	for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
	{
		CqrsRosterKind *workers = &roster->kinds[kind];

		workers->wanted = workers->kept = false;
		if (cqrs_kind_class(kind) != NULL)
			cqrs_roster_set_count(roster - cqrs_rosters, kind, 0);
		for (int i = 0; i < CQRS_MAX_LANES; i++)
		{
			CqrsRosterProcess *process = &workers->processes[i];

			process->started_at = 0;
			process->last_error_at = 0;
			process->last_error[0] = process->advice[0] = '\0';
			for (int n = 0; n < CQRS_WORKER_MAX_COUNTERS; n++)
				pg_atomic_write_u64(&process->counters[n], 0);
		}
	}
}
