/*-------------------------------------------------------------------------
 *
 * slot.h
 *	  Databases with the extension, by numbers; and shared memory by these.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_SLOT_H
#define CQRS_SLOT_H

#include "postgres.h"

#include "storage/lwlock.h"

/*
 * Shared memory that a module owns.  It is zero, and then "init", if there is
 * one, is called for each element, while the server starts.
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
 * Protects the databases of slots, and whatever its owner says.  Held for a
 * few instructions, never while waiting, and never on the way of a commit.
 */
extern LWLock *cqrs_slot_lock;

/* Ask for the shared memory; called once, while the library is preloaded. */
extern void cqrs_slot_init(void);

/* Have an array in it; called before, by the module that it belongs to. */
extern void cqrs_slot_add_array(const CqrsSharedArray *array);

/* How many slots there are; their numbers are below. */
extern int	cqrs_slot_count(void);

/* The database that has a slot, or InvalidOid; the caller holds the lock. */
extern Oid	cqrs_slot_database(int slot);

/* The slot of a database, or -1 when it has none. */
extern int	cqrs_slot_find(Oid dboid);

/* The slot of the current database, taken if need be. */
extern int	cqrs_slot_mine(void);

/*
 * Give up a slot, as its database is gone: sessions of the database keep the
 * number, so there must not be any.  The caller holds the lock exclusively.
 */
extern void cqrs_slot_free(int slot);

#endif							/* CQRS_SLOT_H */
