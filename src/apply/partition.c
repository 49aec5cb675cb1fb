/*-------------------------------------------------------------------------
 *
 * partition.c
 *	  Whether there is a partition for a row.
 *
 * PostgreSQL's routing raises an error if there is none.  The error is right
 * for a new row, but a DELETE of a row that cannot exist has nothing to do.
 *
 * Keys of partitions are columns, never expressions: a table that is
 * partitioned by an expression can have no primary key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tupconvert.h"
#include "executor/executor.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "utils/partcache.h"
#include "utils/rel.h"

#include "apply/partition.h"

static int	find_partition(Relation rel, const Datum *values);
static int	find_list(PartitionKey key, PartitionBoundInfo bounds,
					  Datum value);
static int	find_range(PartitionKey key, PartitionBoundInfo bounds,
					   const Datum *values);
static bool exists_below(Oid relid, TupleDesc desc, TupleTableSlot *slot);

bool
cqrs_partition_exists(Relation rel, TupleTableSlot *slot)
{
	PartitionKey key = RelationGetPartitionKey(rel);
	PartitionDesc parts = RelationGetPartitionDesc(rel, true);
	Datum		values[PARTITION_MAX_KEYS];
	int			found;

	for (int i = 0; i < key->partnatts; i++)
	{
		bool		isnull;

		values[i] = slot_getattr(slot, key->partattrs[i], &isnull);
		if (isnull)
			elog(ERROR, "column %d of the partition key is not set", i + 1);
	}
	if (parts->nparts == 0)
		return false;
	found = find_partition(rel, values);
	if (found < 0)
		found = parts->boundinfo->default_index;
	if (found < 0)
		return false;
	return parts->is_leaf[found] ||
		exists_below(parts->oids[found], RelationGetDescr(rel), slot);
}

/* The number of the partition for a key, without the default one; or -1. */
static int
find_partition(Relation rel, const Datum *values)
{
	PartitionKey key = RelationGetPartitionKey(rel);
	PartitionBoundInfo bounds = RelationGetPartitionDesc(rel, true)->boundinfo;
	bool		nulls[PARTITION_MAX_KEYS] = {false};
	uint64		hash;

	switch (key->strategy)
	{
		case PARTITION_STRATEGY_HASH:
			hash = compute_partition_hash_value(key->partnatts,
												key->partsupfunc,
												key->partcollation,
												unconstify(Datum *, values),
												nulls);
			return bounds->indexes[hash % bounds->nindexes];
		case PARTITION_STRATEGY_LIST:
			return find_list(key, bounds, values[0]);
		default:
			return find_range(key, bounds, values);
	}
}

/* find_partition() for a partition by list, whose key has one column. */
static int
find_list(PartitionKey key, PartitionBoundInfo bounds, Datum value)
{
	bool		equal = false;
	int			offset = partition_list_bsearch(key->partsupfunc,
												key->partcollation, bounds,
												value, &equal);

	return offset >= 0 && equal ? bounds->indexes[offset] : -1;
}

/* The same by range.  What no range covers has -1 in the bounds, too. */
static int
find_range(PartitionKey key, PartitionBoundInfo bounds, const Datum *values)
{
	bool		equal = false;
	int			offset = partition_range_datum_bsearch(key->partsupfunc,
													   key->partcollation,
													   bounds, key->partnatts,
													   unconstify(Datum *, values),
													   &equal);

	return bounds->indexes[offset + 1];
}

/* Whether a partition that is partitioned itself has a partition for a row. */
static bool
exists_below(Oid relid, TupleDesc desc, TupleTableSlot *slot)
{
	Relation	rel = table_open(relid, RowExclusiveLock);
	TupleConversionMap *map = convert_tuples_by_name(desc,
													 RelationGetDescr(rel));
	TupleTableSlot *own = slot;
	bool		exists;

	if (map != NULL)
		own = execute_attr_map_slot(map->attrMap, slot,
									MakeSingleTupleTableSlot(RelationGetDescr(rel),
															 &TTSOpsVirtual));
	exists = cqrs_partition_exists(rel, own);
	if (map != NULL)
		ExecDropSingleTupleTableSlot(own);
	table_close(rel, NoLock);
	return exists;
}
