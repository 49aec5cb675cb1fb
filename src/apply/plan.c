/*-------------------------------------------------------------------------
 *
 * plan.c
 *	  What is known of a replica while messages are applied, and its table,
 *	  open for writing.
 *
 * A plan is made once for a transaction.  The table is locked before its
 * definition is read, with the resource owner of the applier: the lock stays
 * when the subtransaction of a message is aborted.  What changes the
 * definition of the table or the replica needs a stronger lock; what this
 * transaction itself changes, by a trigger, makes the plan stale.
 *
 * The table is open from one message to the next.  What is open (references
 * to relations, descriptors of tuples, pins of buffers) belongs to a resource
 * owner, and has to be closed before that is released, or is gone after an
 * abort.  So a message that is applied in a subtransaction of its own, or from
 * within another message, opens the table for itself, in the memory of the
 * subtransaction.
 *
 * Appliers are in a list, for invalidations.  The end of their memory takes
 * them out of it, however that comes about.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "apply/partition.h"
#include "apply/plan.h"
#include "base/compat.h"

static dlist_head appliers = DLIST_STATIC_INIT(appliers);

static void at_relation_change(Datum arg, Oid relid);
static void at_context_reset(void *arg);
static CqrsPlan *make_plan(struct CqrsApplier *applier, const char *cqrs_id);
static const CqrsReplica *lock_replica(struct CqrsApplier *applier,
									   const char *cqrs_id);
static void bind_columns(CqrsPlan *plan, const CqrsReplica *replica);
static CqrsTable *open_table(CqrsPlan *plan);
static Bitmapset *written_columns(const CqrsPlan *plan);
static CqrsLeaf *add_leaf(CqrsPlan *plan, CqrsTable *table,
						  ResultRelInfo *info);
static void find_attnums(CqrsTable *table, CqrsLeaf *leaf);
static void prepare_scan(CqrsTable *table, CqrsLeaf *leaf);
static void close_table(CqrsTable *table);
static void prepare_defaults(CqrsTable *table);
static Node *null_of_domain(Oid domain);

struct CqrsApplier *cqrs_plan_create_applier(Oid owner)
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

		if (plan->table != NULL)
			close_table(plan->table);
		plan->table = NULL;
	}
}

CqrsPlan *
cqrs_plan_get(struct CqrsApplier *applier, const CqrsReplica *replica)
{
	CqrsPlan   *plan = applier->last_plan;
	ListCell   *lc;

	if (plan == NULL || strcmp(plan->cqrs_id, replica->cqrs_id) != 0)
	{
		plan = NULL;
		foreach(lc, applier->plans)
		{
			CqrsPlan   *candidate = lfirst(lc);

			if (strcmp(candidate->cqrs_id, replica->cqrs_id) == 0)
				plan = candidate;
		}
	}
	if (plan != NULL && (plan->stale ||
						 plan->generation != cqrs_replica_generation()) &&
		(plan->table == NULL || !plan->table->busy))
	{
		if (plan->table != NULL)
			close_table(plan->table);
		applier->plans = list_delete_ptr(applier->plans, plan);
		MemoryContextDelete(plan->context);
		plan = NULL;
	}
	applier->last_plan = NULL;
	if (plan == NULL)
		plan = make_plan(applier, replica->cqrs_id);
	applier->last_plan = plan;
	return plan;
}

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
					 errmsg("replica \"%s\" has got another owner",
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

		table = open_table(plan);
		MemoryContextSwitchTo(caller);
		if (keep)
			plan->table = table;
	}
	table->busy = true;
	ResetPerTupleExprContext(table->estate);
	table->estate->es_output_cid = GetCurrentCommandId(true);
	return table;
}

void
cqrs_plan_close(CqrsPlan *plan, CqrsTable *table)
{
	table->busy = false;
	if (plan->table != table)
		close_table(table);
}

static CqrsTable *
open_table(CqrsPlan *plan)
{
	CqrsTable  *table;
	EState	   *estate = CreateExecutorState();
	MemoryContext caller = MemoryContextSwitchTo(estate->es_query_cxt);
	ResultRelInfo *info = makeNode(ResultRelInfo);

	table = palloc0(sizeof(CqrsTable));
	table->owner = CurrentResourceOwner;
	table->estate = estate;
	table->rel = table_open(plan->relid, NoLock);
	cqrs_init_range_table(estate, table->rel, written_columns(plan));
	InitResultRelInfo(info, table->rel, 1, NULL, 0);
	estate->es_opened_result_relations =
		lappend(estate->es_opened_result_relations, info);
	cqrs_init_eval_plan_qual(&table->epq, estate);

	table->modify = makeNode(ModifyTableState);
	table->modify->ps.state = estate;
	table->modify->operation = CMD_INSERT;
	table->modify->resultRelInfo = info;
	if (table->rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
	{
		table->routing = ExecSetupPartitionTupleRouting(estate, table->rel);
		table->key_slot = ExecInitExtraTupleSlot(estate,
												 RelationGetDescr(table->rel),
												 &TTSOpsVirtual);
	}
	else
	{
		ExecOpenIndices(info, false);
		(void) add_leaf(plan, table, info);
	}
	MemoryContextSwitchTo(caller);
	return table;
}

/*
 * The columns that an UPDATE is taken to set: all that messages have, apart
 * from the key.  UPDATE OF triggers and generated columns depend on them.
 */
static Bitmapset *
written_columns(const CqrsPlan *plan)
{
	const CqrsMapping *mapping = &plan->mapping;
	Bitmapset  *columns = NULL;

	for (int i = 0; i < mapping->ncolumns; i++)
		columns = bms_add_member(columns, mapping->columns[i].attnum -
								 FirstLowInvalidHeapAttributeNumber);
	for (int i = 0; i < mapping->nkeys; i++)
		columns = bms_del_member(columns,
								 mapping->columns[mapping->keys[i]].attnum -
								 FirstLowInvalidHeapAttributeNumber);
	if (mapping->soft_delete != InvalidAttrNumber)
		columns = bms_add_member(columns, mapping->soft_delete -
								 FirstLowInvalidHeapAttributeNumber);
	return columns;
}

CqrsLeaf *
cqrs_plan_leaf(CqrsPlan *plan, CqrsTable *table, const Datum *keys,
			   bool missing_ok)
{
	TupleTableSlot *slot = table->key_slot;
	MemoryContext caller;
	ResultRelInfo *info;
	CqrsLeaf   *leaf;
	ListCell   *lc;

	if (table->routing == NULL)
		return linitial(table->leaves);

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true,
		   slot->tts_tupleDescriptor->natts * sizeof(bool));
	for (int i = 0; i < plan->mapping.nkeys; i++)
	{
		AttrNumber	attnum = plan->mapping.columns[plan->mapping.keys[i]].attnum;

		slot->tts_values[attnum - 1] = keys[i];
		slot->tts_isnull[attnum - 1] = false;
	}
	ExecStoreVirtualTuple(slot);
	if (missing_ok && !cqrs_partition_exists(table->rel, slot))
		return NULL;
	info = ExecFindPartition(table->modify, table->modify->resultRelInfo,
							 table->routing, slot, table->estate);
	foreach(lc, table->leaves)
	{
		leaf = lfirst(lc);
		if (leaf->info == info)
			return leaf;
	}
	caller = MemoryContextSwitchTo(table->estate->es_query_cxt);
	leaf = add_leaf(plan, table, info);
	MemoryContextSwitchTo(caller);
	return leaf;
}

static CqrsLeaf *
add_leaf(CqrsPlan *plan, CqrsTable *table, ResultRelInfo *info)
{
	Relation	rel = info->ri_RelationDesc;
	CqrsLeaf   *leaf = palloc0(sizeof(CqrsLeaf));

	if (rel->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("partition \"%s\" of a replica is not a table",
						RelationGetRelationName(rel))));
	leaf->relid = RelationGetRelid(rel);
	leaf->info = info;
	find_attnums(table, leaf);
	for (int i = 0; i < info->ri_NumIndices; i++)
	{
		if (info->ri_IndexRelationDescs[i]->rd_index->indisprimary)
			leaf->index = info->ri_IndexRelationDescs[i];
	}
	if (leaf->index == NULL || leaf->index->rd_rel->relam != BTREE_AM_OID ||
		IndexRelationGetNumberOfKeyAttributes(leaf->index) !=
		plan->mapping.nkeys)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" of a replica has no usable primary key",
						RelationGetRelationName(rel))));
	leaf->old = table_slot_create(rel, &table->estate->es_tupleTable);
	leaf->new = ExecInitExtraTupleSlot(table->estate, RelationGetDescr(rel),
									   &TTSOpsVirtual);
	prepare_scan(table, leaf);
	table->leaves = lappend(table->leaves, leaf);
	return leaf;
}

/* Which columns of a partition are those of the replica's table. */
static void
find_attnums(CqrsTable *table, CqrsLeaf *leaf)
{
	TupleConversionMap *map = table->routing == NULL ? NULL :
		cqrs_root_to_leaf_map(leaf->info, table->estate);

	if (map == NULL)
		return;
	leaf->attnums = palloc0(sizeof(AttrNumber) * map->indesc->natts);
	for (int i = 0; i < map->attrMap->maplen; i++)
	{
		if (map->attrMap->attnums[i] != 0)
			leaf->attnums[map->attrMap->attnums[i] - 1] = i + 1;
	}
}

static void
prepare_scan(CqrsTable *table, CqrsLeaf *leaf)
{
	Relation	index = leaf->index;
	int			nkeys = IndexRelationGetNumberOfKeyAttributes(index);

	for (int i = 0; i < nkeys; i++)
	{
		Oid			type = index->rd_opcintype[i];
		Oid			equals = get_opfamily_member(index->rd_opfamily[i], type,
												 type, BTEqualStrategyNumber);

		ScanKeyEntryInitialize(&leaf->keys[i], 0, i + 1, BTEqualStrategyNumber,
							   InvalidOid, index->rd_indcollation[i],
							   get_opcode(equals), (Datum) 0);
	}
	leaf->scan = cqrs_begin_index_scan(leaf->info->ri_RelationDesc, index,
									   nkeys);
}

static void
close_table(CqrsTable *table)
{
	EState	   *estate = table->estate;
	Relation	rel = table->rel;
	ListCell   *lc;

	foreach(lc, table->leaves)
		index_endscan(((CqrsLeaf *) lfirst(lc))->scan);
	EvalPlanQualEnd(&table->epq);
	if (table->routing != NULL)
		ExecCleanupTupleRouting(table->modify, table->routing);
	else
		ExecCloseIndices(table->modify->resultRelInfo);
	ExecCloseTrigTargetRelations(estate);
	ExecResetTupleTable(estate->es_tupleTable, false);
	FreeExecutorState(estate);
	table_close(rel, NoLock);
}

Datum
cqrs_plan_default(CqrsTable *table, AttrNumber attnum, bool *isnull)
{
	if (table->defaults == NULL)
		prepare_defaults(table);
	*isnull = true;
	if (table->defaults[attnum - 1] == NULL)
		return (Datum) 0;
	return ExecEvalExpr(table->defaults[attnum - 1],
						GetPerTupleExprContext(table->estate), isnull);
}

static void
prepare_defaults(CqrsTable *table)
{
	TupleDesc	desc = RelationGetDescr(table->rel);
	MemoryContext caller = MemoryContextSwitchTo(table->estate->es_query_cxt);

	table->defaults = palloc0(sizeof(ExprState *) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Node	   *expr;

		if (att->attisdropped || att->attgenerated)
			continue;
		expr = build_column_default(table->rel, i + 1);
		if (expr == NULL && get_typtype(att->atttypid) == TYPTYPE_DOMAIN)
			expr = null_of_domain(att->atttypid);
		if (expr != NULL)
			table->defaults[i] = ExecInitExpr(expression_planner((Expr *) expr),
											  NULL);
	}
	MemoryContextSwitchTo(caller);
}

/* A null that the domain has still to accept. */
static Node *
null_of_domain(Oid domain)
{
	int32		typmod = -1;
	Oid			base = getBaseTypeAndTypmod(domain, &typmod);

	return coerce_to_domain((Node *) makeNullConst(base, typmod,
												   get_typcollation(base)),
							base, typmod, domain, COERCION_IMPLICIT,
							COERCE_IMPLICIT_CAST, -1, false);
}
