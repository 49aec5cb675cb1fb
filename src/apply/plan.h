/*-------------------------------------------------------------------------
 *
 * plan.h
 *	  What is known of a replica while messages are applied.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_PLAN_H
#define CQRS_PLAN_H

#include "postgres.h"

#include "lib/ilist.h"
#include "utils/resowner.h"

#include "apply/table.h"
#include "apply/value_in.h"
#include "define/function.h"
#include "replica/mapping.h"

typedef struct CqrsPlan
{
	MemoryContext context;
	char	   *cqrs_id;
	Oid			relid;			/* InvalidOid: none */
	Oid			owner;
	char	   *handler;		/* NULL: none */
	bool		only_direct_syncs;
	uint64		generation;		/* of replicas, when this was made */
	bool		stale;			/* the table has changed since */
	CqrsFunction function;		/* the handler, once it was looked up */
	CqrsMapping mapping;
	CqrsValueInput **inputs;	/* of mapping.columns[] */
	int		   *key_lengths;	/* of their keys */
	int			nexpected;
	int		   *expected;		/* which column each member of the last
								 * message was */
	CqrsTable  *table;			/* kept open between messages, or NULL */
} CqrsPlan;

/* The state of applying (apply.h). */
struct CqrsApplier
{
	dlist_node	node;			/* in the list of all */
	MemoryContextCallback callback;
	MemoryContext context;
	MemoryContext message_context;
	ResourceOwner resources;	/* of the (sub)transaction that it is for */
	Oid			owner;
	List	   *plans;			/* CqrsPlan */
	CqrsPlan   *last_plan;
};

/* A new applier in the current context. */
extern struct CqrsApplier *cqrs_plan_create_applier(Oid owner);

/* Close the tables that are kept open. */
extern void cqrs_plan_close_all(struct CqrsApplier *applier);

/*
 * The plan for a replica.  Locks the table of the replica.  Raises an error if
 * the replica does not exist any more, or has another owner now.
 */
extern CqrsPlan *cqrs_plan_get(struct CqrsApplier *applier,
							   const CqrsReplica *replica);

/*
 * Open the table of a plan for one message, and close it.  It stays open if it
 * can be used for the next one.
 */
extern CqrsTable *cqrs_plan_open(struct CqrsApplier *applier, CqrsPlan *plan);
extern void cqrs_plan_close(CqrsPlan *plan, CqrsTable *table);

#endif							/* CQRS_PLAN_H */
