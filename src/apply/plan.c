/*-------------------------------------------------------------------------
 *
 * plan.c
 *	  What is known of a replica while messages are applied.
 *
 * A plan is made once for a transaction.  The table is locked before its
 * definition is read, with the resource owner of the applier: the lock stays
 * when the subtransaction of a message is aborted.  Commands that change the
 * definition of the table or the replica need a stronger lock.  A change by
 * this transaction itself, in a trigger, makes the plan stale.  A stale plan
 * is replaced, and stays in memory: its handler may be running.
 *
 * The table stays open from one message to the next.  A message that is
 * applied in a subtransaction of its own, or from within another message, opens
 * the table for itself, in the memory of the subtransaction (table.c says why).
 *
 * Appliers are in a list, for invalidations.  The reset of its memory context
 * takes an applier out of the list.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "apply/plan.h"
#include "base/compat.h"

static dlist_head appliers = DLIST_STATIC_INIT(appliers);

static void at_relation_change(Datum arg, Oid relid);
static void at_context_reset(void *arg);
static bool is_plan_of(const CqrsPlan *plan, const CqrsReplica *replica);
static CqrsPlan *find_plan(struct CqrsApplier *applier,
						   const CqrsReplica *replica);
static CqrsPlan *make_plan(struct CqrsApplier *applier, const char *cqrs_id);
static const CqrsReplica *lock_replica(struct CqrsApplier *applier,
									   const char *cqrs_id);
static void bind_columns(CqrsPlan *plan, const CqrsReplica *replica);

struct CqrsApplier *
cqrs_plan_create_applier(Oid owner)
{
	static bool registered = false;
	struct CqrsApplier *applier = palloc0(sizeof(struct CqrsApplier));

	if (!registered)
	{
		CacheRegisterRelcacheCallback(at_relation_change, (Datum) 0);
		registered = true;
	}
	applier->context = CurrentMemoryContext;
	applier->message_context = AllocSetContextCreate(CurrentMemoryContext,
													 "cqrs applied message",
													 ALLOCSET_DEFAULT_SIZES);
	applier->resources = CurrentResourceOwner;
	applier->owner = owner;
	dlist_push_tail(&appliers, &applier->node);
	applier->callback.func = at_context_reset;
	applier->callback.arg = applier;
	MemoryContextRegisterResetCallback(CurrentMemoryContext,
									   &applier->callback);
	return applier;
}

static void
at_context_reset(void *arg)
{
	dlist_delete(&((struct CqrsApplier *) arg)->node);
}

/* Callback: a relation has changed, or any (InvalidOid). */
static void
at_relation_change(Datum arg, Oid relid)
{
	dlist_iter	iter;
	ListCell   *lc;

	dlist_foreach(iter, &appliers)
	{
		foreach(lc, dlist_container(struct CqrsApplier, node, iter.cur)->plans)
		{
			CqrsPlan   *plan = lfirst(lc);

			if (!OidIsValid(relid) || plan->relid == relid)
				plan->stale = true;
		}
	}
}

void
cqrs_plan_close_all(struct CqrsApplier *applier)
{
	ListCell   *lc;

	foreach(lc, applier->plans)
	{
		CqrsPlan   *plan = lfirst(lc);

		Assert(plan->table == NULL ||
			   plan->table->owner == CurrentResourceOwner); /* I22 */
		if (plan->table != NULL)
			cqrs_table_close(plan->table);
		plan->table = NULL;
	}
}

CqrsPlan *
cqrs_plan_get(struct CqrsApplier *applier, const CqrsReplica *replica)
{
	CqrsPlan   *plan = applier->last_plan;

	if (plan == NULL || !is_plan_of(plan, replica))
		plan = find_plan(applier, replica);
	if (plan == NULL)
		plan = make_plan(applier, replica->cqrs_id);
	applier->last_plan = plan;
	return plan;
}

/* Whether the plan is one of that replica, and still holds. */
static bool
is_plan_of(const CqrsPlan *plan, const CqrsReplica *replica)
{
	return !plan->stale && plan->generation == cqrs_replica_generation() &&
		strcmp(plan->cqrs_id, replica->cqrs_id) == 0;
}

/*
 * The plan of a replica, or NULL.  Closes the tables of other plans of the
 * replica, but not from within a subtransaction that has not opened them.
 */
static CqrsPlan *
find_plan(struct CqrsApplier *applier, const CqrsReplica *replica)
{
	CqrsPlan   *found = NULL;
	ListCell   *lc;

	foreach(lc, applier->plans)
	{
		CqrsPlan   *plan = lfirst(lc);

		if (is_plan_of(plan, replica))
			found = plan;
		else if (strcmp(plan->cqrs_id, replica->cqrs_id) == 0 &&
				 (plan->table == NULL ||
				  (!plan->table->busy &&
				   plan->table->owner == CurrentResourceOwner)))
		{
			if (plan->table != NULL)
				cqrs_table_close(plan->table);
			plan->table = NULL;
			applier->plans = foreach_delete_current(applier->plans, lc);
		}
	}
	return found;
}

/*
 * Add a plan, and lock the replica's table.  Raises the errors of
 * cqrs_plan_get().
 */
static CqrsPlan *
make_plan(struct CqrsApplier *applier, const char *cqrs_id)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context;
	CqrsPlan   *plan;
	const CqrsReplica *replica = lock_replica(applier, cqrs_id);

	context = AllocSetContextCreate(caller, "cqrs plan",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	plan = palloc0(sizeof(CqrsPlan));
	plan->context = context;
	plan->generation = cqrs_replica_generation();
	plan->cqrs_id = pstrdup(replica->cqrs_id);
	plan->relid = replica->relid;
	plan->owner = replica->owner;
	plan->handler = replica->handler == NULL ? NULL : pstrdup(replica->handler);
	plan->only_direct_syncs = replica->only_direct_syncs;
	if (OidIsValid(plan->relid))
		bind_columns(plan, replica);
	MemoryContextSwitchTo(applier->context);
	applier->plans = lappend(applier->plans, plan);
	MemoryContextSwitchTo(caller);
	MemoryContextSetParent(context, applier->context);
	return plan;
}

/*
 * The replica of a name, after its table was locked.
 */
static const CqrsReplica *
lock_replica(struct CqrsApplier *applier, const char *cqrs_id)
{
	Oid			locked = InvalidOid;

	for (;;)
	{
		const CqrsReplica *replica = cqrs_replica_find(cqrs_id);
		ResourceOwner caller = CurrentResourceOwner;

		if (replica == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("replica \"%s\" does not exist", cqrs_id)));
		if (replica->owner != applier->owner)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("replica \"%s\" has another owner now",
							replica->cqrs_id)));
		if (replica->relid == locked)
			return replica;
		locked = replica->relid;
		/* An abort sets the resource owner, too. */
		CurrentResourceOwner = applier->resources;
		LockRelationOid(locked, RowExclusiveLock);
		CurrentResourceOwner = caller;
	}
}

/* Fill in what the plan knows of the table, which is locked. */
static void
bind_columns(CqrsPlan *plan, const CqrsReplica *replica)
{
	Relation	rel = table_open(plan->relid, NoLock);

	if (rel->rd_rel->relforcerowsecurity)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("replica \"%s\" has a table with forced row-level security",
						plan->cqrs_id),
				 errhint("Use ALTER TABLE ... NO FORCE ROW LEVEL SECURITY.")));
	cqrs_mapping_bind(rel, replica->row, &plan->mapping);
	plan->inputs = palloc(sizeof(CqrsValueInput *) * plan->mapping.ncolumns);
	plan->key_lengths = palloc(sizeof(int) * plan->mapping.ncolumns);
	for (int i = 0; i < plan->mapping.ncolumns; i++)
	{
		CqrsMappedColumn *column = &plan->mapping.columns[i];

		plan->key_lengths[i] = strlen(column->key);
		plan->inputs[i] =
			cqrs_value_in_prepare(column->type, column->typmod,
								  TupleDescAttr(RelationGetDescr(rel),
												column->attnum - 1)->attnotnull);
	}
	table_close(rel, NoLock);
}

CqrsTable *
cqrs_plan_open(struct CqrsApplier *applier, CqrsPlan *plan)
{
	CqrsTable  *table = plan->table;
	bool		keep = table == NULL &&
	CurrentResourceOwner == applier->resources;

	if (table == NULL || table->busy || table->owner != CurrentResourceOwner)
	{
		MemoryContext caller = MemoryContextSwitchTo(keep ? plan->context :
													 CurTransactionContext);

		table = cqrs_table_open(plan->relid, &plan->mapping);
		MemoryContextSwitchTo(caller);
		if (keep)
			plan->table = table;
	}
	table->busy = true;
	cqrs_table_begin_message(table);
	return table;
}

void
cqrs_plan_close(CqrsPlan *plan, CqrsTable *table)
{
	table->busy = false;
	if (plan->table != table)
		cqrs_table_close(table);
}
