/*-------------------------------------------------------------------------
 *
 * hooks.h
 *	  Users' functions that take part in making messages, looked up.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_HOOKS_H
#define CQRS_HOOKS_H

#include "postgres.h"

#include "define/function.h"
#include "master/condition.h"
#include "master/relation.h"

/*
 * The hooks of a master, or the function that a setting names.  Whoever has
 * taken them is the only one who uses them.
 */
typedef struct CqrsHooks
{
	MemoryContext context;		/* holds all of this */
	CqrsFunction serializer;
	bool		set_wise;		/* the serializer takes many rows at once */
	CqrsFunction meta;
	CqrsFunction delete_data;
	CqrsCondition *sync_when;	/* or NULL */
	CqrsFunction setting;		/* that a setting names */

	/* For hooks.c alone. */
	uint64		generation;
	Oid			owner;			/* of the table */
	struct CqrsHooks **idle;	/* the list that this is returned to */
	MemoryContext home;			/* parent of "context" in that list */
	struct CqrsHooks *next;		/* in that list */
} CqrsHooks;

/*
 * Take the hooks of a master, looked up anew if any function has changed.
 * Raises an error if one does not fit.  What a hook calls may take the hooks
 * of the same master, and gets others.
 *
 * They are used for one call and given back after it, when nothing of its
 * result is needed any more.  After an error they are not given back: a call
 * that was left in the middle makes them useless, and the end of the
 * (sub)transaction frees them.
 */
extern CqrsHooks *cqrs_hooks_take(const CqrsRelation *relation,
								  CqrsMaster *master);

/* The function that cqrs.meta_function names, for the owner of a table. */
extern CqrsHooks *cqrs_hooks_take_meta_setting(Oid owner);

/* The same for cqrs.correlation_function. */
extern CqrsHooks *cqrs_hooks_take_correlation_setting(Oid owner);

extern void cqrs_hooks_give_back(CqrsHooks *hooks);

/*
 * Raise an error if the function of an option does not fit a registered table
 * and its owner.
 */
extern void cqrs_hooks_check(CqrsOption option, const char *name, Oid root,
							 Oid owner);

/*
 * The function of an option, whatever rights anybody has, or InvalidOid.
 */
extern Oid	cqrs_hooks_function(CqrsOption option, const char *name, Oid root);

#endif							/* CQRS_HOOKS_H */
