/*-------------------------------------------------------------------------
 *
 * roster.h
 *	  The workers that a database has and shall have, in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_ROSTER_H
#define CQRS_ROSTER_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"

#include "base/limits.h"
#include "worker/kind.h"

#define CQRS_ERROR_BYTES	512
#define CQRS_ADVICE_BYTES	1024

/* No worker is started for this long after a command that needs none. */
#define CQRS_HOLD_MS	10000

/* The most databases that are looked at the same time; see discovery.c. */
#define CQRS_MAX_DISCOVERIES	4

/*
 * A process.  Written by it alone.  Fields without a note are protected by
 * cqrs_slot_lock.
 */
typedef struct CqrsRosterProcess
{
	pid_t		pid;			/* 0 when there is no process */
	Latch	   *latch;			/* it lives in the process's PGPROC */
	pg_atomic_uint32 listens;	/* 1: a commit is to set the latch */

	/* Readable without the lock. */
	pg_atomic_uint32 state;
	pg_atomic_uint64 counters[CQRS_WORKER_MAX_COUNTERS];

	TimestampTz started_at;
	TimestampTz connected_at;	/* 0: not connected */
	TimestampTz last_error_at;	/* 0: none */
	char		last_error[CQRS_ERROR_BYTES];
	char		advice[CQRS_ADVICE_BYTES];	/* "": none */
} CqrsRosterProcess;

/* The processes of a kind in a database. */
typedef struct CqrsRosterKind
{
	bool		wanted;			/* the launcher shall keep processes there */
	bool		kept;			/* counters are from before the start of the
								 * server; ends as "wanted" does */
	pg_atomic_uint32 count;		/* current number, 0: none yet; changes only
								 * while no process runs; readable without the
								 * lock */
	pg_atomic_uint32 calls;		/* requests to look at the catalog, so far */
	CqrsRosterProcess processes[CQRS_MAX_LANES];	/* those above count keep
													 * their statistics */
} CqrsRosterKind;

/* A database. */
typedef struct CqrsRoster
{
	pg_atomic_uint32 resettled; /* changes of the database's settings */
	TimestampTz hold_until;		/* no process is started, and none becomes a
								 * worker, before this */
	TimestampTz since;			/* start of the counters */
	ConditionVariable left;		/* broadcast when a process goes */
	CqrsRosterKind kinds[CQRS_NWORKERKINDS];
} CqrsRoster;

/* The server. */
typedef struct CqrsRosterServer
{
	Latch	   *launcher;		/* NULL when there is none */
	bool		rescan;			/* the set of databases has changed, or the
								 * set of those with the extension */
	Oid			looked_at[CQRS_MAX_DISCOVERIES];	/* InvalidOid: none */
	pg_atomic_uint32 resettled; /* changes of settings of any database */
} CqrsRosterServer;

extern CqrsRoster *cqrs_rosters;	/* by slot */
extern CqrsRosterServer *cqrs_roster_server;

/* Ask for the shared memory; called once, while the library is preloaded. */
extern void cqrs_roster_init(void);

/*
 * Whether a kind has a process in a database, or whether any kind has.  The
 * caller holds the lock.
 */
extern bool cqrs_roster_has_processes(int slot, CqrsWorkerKind kind);
extern bool cqrs_roster_is_occupied(int slot);

/* Whether a process has counted anything, gauges aside. */
extern bool cqrs_roster_has_counted(int slot, CqrsWorkerKind kind, int number);

/* Have all processes of a kind in a database end. */
extern void cqrs_roster_end(int slot, CqrsWorkerKind kind);

/*
 * Set the number of processes.  The caller holds the lock exclusively, and
 * there is no process of the kind.
 */
extern void cqrs_roster_set_count(int slot, CqrsWorkerKind kind, int count);

/*
 * Become the process worker->number of worker->kind in the current database,
 * which takes a slot if need be.  Fills in slot and count.  Returns false if
 * that process runs already, if its number is not below count, or if a command
 * needs the database without workers.
 */
extern bool cqrs_roster_enter(CqrsWorker *worker);

/* Have the launcher keep processes of a kind in a database. */
extern void cqrs_roster_want(int slot, CqrsWorkerKind kind);
extern void cqrs_roster_leave(const CqrsWorker *worker);

/* Set the launcher's latch; the caller holds the lock. */
extern void cqrs_roster_wake_launcher(void);

/*
 * Wake the processes of a kind: all of them, or those that listen.  Needs no
 * lock and cannot fail.  Returns whether there is any process.
 */
extern bool cqrs_roster_wake(int slot, CqrsWorkerKind kind, bool all);

#endif							/* CQRS_ROSTER_H */
