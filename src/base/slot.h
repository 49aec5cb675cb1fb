/*-------------------------------------------------------------------------
 *
 * slot.h
 *	  Slots: numbers of the databases that have the extension, and the shared
 *	  memory indexed by them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_SLOT_H
#define CQRS_SLOT_H

#include "postgres.h"

#include "storage/lwlock.h"

/*
 * Shared memory that a module owns.  While the server starts, it is zeroed;
 * then "init", unless NULL, is called for each element.
 */
typedef struct CqrsSharedArray
{
	const char *name;			/* as pg_shmem_allocations shows it */
	Size		size;			/* of an element */
	bool		by_slot;		/* an element for each slot; else a single one */
	void	  **elements;		/* is set to the first one */
	void		(*init) (void *element);

	/* by_slot: another database gets the slot.  cqrs_slot_lock is held. */
	void		(*reset) (void *element);
} CqrsSharedArray;

/*
 * Protects the databases of slots, and all that other modules document as
 * protected by it.  Held for a few instructions, and never while waiting.  A
 * commit takes it only where it is the session's first one, or finds no
 * publisher, or has a worker look at the catalog (wake.c).
 */
extern LWLock *cqrs_slot_lock;

/* Ask for the shared memory; called once, while the library is preloaded. */
extern void cqrs_slot_init(void);

/*
 * Add an array.  Called by the module that owns it, before cqrs_slot_init().
 */
extern void cqrs_slot_add_array(const CqrsSharedArray *array);

/* The number of slots.  Slots are numbered from 0. */
extern int	cqrs_slot_count(void);

/* The database that has a slot, or InvalidOid; the caller holds the lock. */
extern Oid	cqrs_slot_database(int slot);

/* The slot of a database, or -1 when it has none. */
extern int	cqrs_slot_find(Oid dboid);

/* The slot of the current database; takes a free one if it has none. */
extern int	cqrs_slot_mine(void);

/*
 * The slot of a database, which takes a free one if it has none; -1 when none
 * is free.  The caller holds the lock exclusively.
 */
extern int	cqrs_slot_take(Oid dboid);

/*
 * Free the slot of a database that is gone.  Sessions keep the number of their
 * database's slot, so the database must not have any sessions.  The caller
 * holds the lock exclusively.
 */
extern void cqrs_slot_free(int slot);

#endif							/* CQRS_SLOT_H */
