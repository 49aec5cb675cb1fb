/*-------------------------------------------------------------------------
 *
 * kind.h
 *	  Kinds of workers, each with a class that says what it does.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_KIND_H
#define CQRS_KIND_H

#include "postgres.h"

#include "base/compat.h"

typedef enum CqrsWorkerKind
{
	CQRS_WORKER_PUBLISHER,
	CQRS_WORKER_CONSUMER,
	CQRS_NWORKERKINDS
} CqrsWorkerKind;

/* The first states of all kinds; others follow. */
typedef enum CqrsWorkerState
{
	CQRS_WORKER_STOPPED,		/* no process */
	CQRS_WORKER_STARTING,
	CQRS_WORKER_FIRST_STATE
}			CqrsWorkerState;

/* The first counters of all kinds; others follow. */
typedef enum CqrsWorkerCounter
{
	CQRS_WORKER_ERRORS,			/* counted by cqrs_worker_set_error() */
	CQRS_WORKER_CONNECTS,		/* counted by cqrs_worker_set_connected() */
	CQRS_WORKER_FIRST_COUNTER
}			CqrsWorkerCounter;

#define CQRS_WORKER_MAX_COUNTERS	32

/* This process. */
typedef struct CqrsWorker
{
	CqrsWorkerKind kind;
	int			slot;			/* of its database */
	int			number;			/* from 0 */
	int			count;			/* of workers of its kind; constant while it
								 * runs */
	Oid			extension;		/* in the database, when the process started */
	bool		reloaded;		/* the settings were read again before this
								 * turn */
	void	   *state;			/* for the class; set by set_up() */
} CqrsWorker;

/* Until when, or until which event, a process has nothing to do. */
typedef struct CqrsWait
{
	pgsocket	socket;			/* PGINVALID_SOCKET: none */
	bool		write;			/* for room to write as well */
	long		timeout_ms;		/* 0: do not wait, -1: for ever */
} CqrsWait;

typedef struct CqrsWorkerClass
{
	const char *name;			/* "publisher": process title, log, views */
	const int  *count;			/* a setting: how many a database has */
	const char *const *states;	/* names, CqrsWorkerState's first */
	const char *const *counters;	/* names, CqrsWorkerCounter's first; NULL
									 * ends them */
	CqrsWaitEvent wait_event;	/* shown while it waits for the next turn */
	bool		durable_commits;	/* synchronous_commit is never below on */
	int			first_gauge;	/* counters from this one on are zero without
								 * a process */

	/*
	 * Whether there is work for the kind in this database, as far as its
	 * catalog says.  Workers of other kinds ask this when they start, in a
	 * transaction with a snapshot.  NULL: there always is.
	 */
	bool		(*is_wanted) (void);

	/*
	 * Called in a transaction with a snapshot, in TopMemoryContext.  Returns
	 * false if there is nothing to do in this database: the process then
	 * ends, and is not wanted.
	 */
	bool		(*set_up) (CqrsWorker *worker);

	/* Do all that is due.  The current memory context lasts one turn. */
	void		(*turn) (CqrsWorker *worker);

	/* Whether a commit would give the worker work.  Called before wait(). */
	bool		(*listens) (CqrsWorker *worker);

	/* Fill in when the next turn is due.  The latch ends the wait as well. */
	void		(*wait) (CqrsWorker *worker, CqrsWait *wait);

	/* Called after SIGTERM; takes a second at most. */
	void		(*finish) (CqrsWorker *worker);

	/*
	 * The number of workers changes, while no process of the kind runs.  It
	 * is 0 when another database gets the slot.  cqrs_slot_lock is held.
	 */
	void		(*recount) (int slot, int count);
} CqrsWorkerClass;

/* Register a kind; called once, while the library is preloaded. */
extern void cqrs_kind_register(CqrsWorkerKind kind,
							   const CqrsWorkerClass *class);

/* The class of a kind, or NULL. */
extern const CqrsWorkerClass *cqrs_kind_class(CqrsWorkerKind kind);

#endif							/* CQRS_KIND_H */
