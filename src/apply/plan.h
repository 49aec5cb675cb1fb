/*-------------------------------------------------------------------------
 *
 * plan.h
 *	  What is known of a replica while messages are applied, and its table,
 *	  open for writing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_PLAN_H
#define CQRS_PLAN_H

#include "postgres.h"

#include "access/genam.h"
#include "access/skey.h"
#include "executor/execPartition.h"
#include "lib/ilist.h"
#include "nodes/execnodes.h"
#include "utils/resowner.h"

#include "apply/value_in.h"
#include "define/function.h"
#include "replica/mapping.h"

/*
 * A table that has rows: the replica's, or a partition of it.
 */
typedef struct CqrsLeaf
{
	Oid			relid;
	ResultRelInfo *info;
	AttrNumber *attnums;		/* of the replica's columns here, by their
								 * attnum - 1; NULL: the same */
	Relation	index;			/* of the primary key */
	IndexScanDesc scan;
	ScanKeyData keys[INDEX_MAX_KEYS];
	TupleTableSlot *old;		/* the row that is there */
	TupleTableSlot *new;		/* what it becomes */
} CqrsLeaf;

/*
 * A table that is open for writing.  It belongs to the resource owner under
 * which it was opened.
 */
typedef struct CqrsTable
{
	ResourceOwner owner;
	bool		busy;			/* a message is being applied with it */
	Relation	rel;
	EState	   *estate;
	EPQState	epq;
	ModifyTableState *modify;
	PartitionTupleRouting *routing; /* NULL: not partitioned */
	TupleTableSlot *key_slot;	/* a row with its key, for routing */
	List	   *leaves;			/* CqrsLeaf */
	ExprState **defaults;		/* by attnum - 1; NULL until the first is used */
} CqrsTable;

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
	int		   *expected;		/* which column each member of the last message
								 * was */
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
 * The plan for a replica, whose table is locked then.  Raises an error if the
 * replica is gone, or is another owner's now.
 */
extern CqrsPlan * cqrs_plan_get(struct CqrsApplier *applier,
								const CqrsReplica * replica);

/*
 * Open the table of a plan for one message, and close it.  It stays open if it
 * can be used for the next one.
 */
extern CqrsTable * cqrs_plan_open(struct CqrsApplier *applier, CqrsPlan * plan);
extern void cqrs_plan_close(CqrsPlan * plan, CqrsTable * table);

/*
 * The leaf for a key, whose values are in the order of the primary key.  If
 * there is none, returns NULL with missing_ok, else raises an error.
 */
extern CqrsLeaf * cqrs_plan_leaf(CqrsPlan * plan, CqrsTable * table,
								 const Datum *keys, bool missing_ok);

/* The value by default of a column of the replica's table. */
extern Datum cqrs_plan_default(CqrsTable * table, AttrNumber attnum,
							   bool *isnull);

#endif							/* CQRS_PLAN_H */
