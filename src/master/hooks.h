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

/* The hooks of a master. */
typedef struct CqrsHooks
{
	MemoryContext context;		/* holds all of this */
	uint64		generation;		/* for hooks.c alone */
	CqrsFunction serializer;
	bool		set_wise;		/* the serializer takes many rows at once */
	CqrsFunction meta;
	CqrsFunction delete_data;
	CqrsCondition *sync_when;	/* or NULL */
} CqrsHooks;

/*
 * The hooks of a master, looked up anew if any function has changed.  Raises
 * an error if one does not fit.  Valid until the next call for the master.
 */
extern struct CqrsHooks *cqrs_hooks_of(const CqrsRelation *relation,
									   CqrsMaster *master);

/* The function that cqrs.meta_function names, for the owner of a table. */
extern CqrsFunction *cqrs_hooks_meta_setting(Oid owner);

/* The same for cqrs.correlation_function. */
extern CqrsFunction *cqrs_hooks_correlation_setting(Oid owner);

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
