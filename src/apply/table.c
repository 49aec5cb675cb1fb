/*-------------------------------------------------------------------------
 *
 * table.c
 *	  The table of a replica, open for writing.
 *
 * An executor state without a plan, as logical replication has it: a range
 * table of one table, indexes, slots, and an index scan for keys, kept for many
 * messages.  A partitioned table has a leaf for each partition that was met.
 *
 * Open resources (references to relations, descriptors of tuples, pins of
 * buffers) belong to the resource owner under which they were opened.  They
 * must be closed before the owner is released.  An abort releases them.
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
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "apply/partition.h"
#include "apply/table.h"
#include "base/compat.h"

static Bitmapset *written_columns(const CqrsMapping *mapping);
static CqrsLeaf *add_leaf(CqrsTable *table, ResultRelInfo *info);
static void find_attnums(CqrsTable *table, CqrsLeaf *leaf);
static void prepare_scan(CqrsTable *table, CqrsLeaf *leaf);
static void prepare_defaults(CqrsTable *table);
static Node *null_of_domain(Oid domain);

CqrsTable *
cqrs_table_open(Oid relid, const CqrsMapping *mapping)
{
	CqrsTable  *table;
	EState	   *estate = CreateExecutorState();
	MemoryContext caller = MemoryContextSwitchTo(estate->es_query_cxt);
	ResultRelInfo *info = makeNode(ResultRelInfo);

	table = palloc0(sizeof(CqrsTable));
	table->owner = CurrentResourceOwner;
	table->mapping = mapping;
	table->estate = estate;
	table->rel = table_open(relid, NoLock);
	cqrs_init_range_table(estate, table->rel, written_columns(mapping));
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
		(void) add_leaf(table, info);
	}
	MemoryContextSwitchTo(caller);
	return table;
}

/*
 * The columns that an UPDATE is taken to set: all that messages have, apart
 * from the key.  UPDATE OF triggers and generated columns depend on them.
 */
static Bitmapset *
written_columns(const CqrsMapping *mapping)
{
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

void
cqrs_table_begin_message(CqrsTable *table)
{
	ResetPerTupleExprContext(table->estate);
	table->estate->es_output_cid = GetCurrentCommandId(true);
}

CqrsLeaf *
cqrs_table_leaf(CqrsTable *table, const Datum *keys, bool missing_ok)
{
	const CqrsMapping *mapping = table->mapping;
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
	for (int i = 0; i < mapping->nkeys; i++)
	{
		AttrNumber	attnum = mapping->columns[mapping->keys[i]].attnum;

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
	leaf = add_leaf(table, info);
	MemoryContextSwitchTo(caller);
	return leaf;
}

/*
 * Add a leaf, whose indexes are open, in the current context: that of the
 * table.  Raises an error if it has no primary key to find rows by.
 */
static CqrsLeaf *
add_leaf(CqrsTable *table, ResultRelInfo *info)
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
		table->mapping->nkeys)
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

/* Map the columns of the replica's table to those of a partition. */
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

/*
 * Begin the scan that finds rows by the primary key; the values are set for
 * each row.
 */
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

void
cqrs_table_close(CqrsTable *table)
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
	cqrs_close_trigger_targets(estate);
	ExecResetTupleTable(estate->es_tupleTable, false);
	FreeExecutorState(estate);
	table_close(rel, NoLock);
}

Datum
cqrs_table_default(CqrsTable *table, AttrNumber attnum, bool *isnull)
{
	if (table->defaults == NULL)
		prepare_defaults(table);
	*isnull = true;
	if (table->defaults[attnum - 1] == NULL)
		return (Datum) 0;
	return ExecEvalExpr(table->defaults[attnum - 1],
						GetPerTupleExprContext(table->estate), isnull);
}

/*
 * Compile the defaults of all columns.  A domain without a default has to
 * accept the null.
 */
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
