/*-------------------------------------------------------------------------
 *
 * skipped.c
 *	  Messages of the outbox that no publisher sends, because they are parked.
 *
 * A message that is parked after its commit stays in the outbox, where nothing
 * is deleted, until the watermark has passed it.  Its id is in cqrs.skipped
 * until then, whatever becomes of its row of cqrs.parked: cqrs_retry_parked()
 * and whoever discards the message delete that row, and the message must not
 * come back by its old route.
 *
 * The publisher and cqrs_park_held() may be at the same message.  Neither
 * waits for the other.  The unique index is asked for a conflict, and not to
 * resolve it, so a conflict with a transaction that is still open is reported
 * at once.  While REINDEX CONCURRENTLY is at work, there are two indexes.
 *
 * Ids are forgotten in a transaction whose WAL follows that of the watermark.
 * So a crash cannot bring back a message that was forgotten.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/objects.h"
#include "outbox/skipped.h"

static bool is_skipped(Relation skipped, int64 id);
static SysScanDesc begin_scan(Relation skipped, StrategyNumber strategy,
							  RegProcedure operator, int64 id);
static int64 id_of(Relation skipped, HeapTuple tuple);
static int	compare_ids(const void *a, const void *b);

CqrsSkip
cqrs_skipped_add(int64 id)
{
	Relation	skipped = table_open(cqrs_objects_get(false)->skipped,
									 RowExclusiveLock);
	Datum		value = Int64GetDatum(id);
	bool		isnull = false;
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(skipped), &value,
										&isnull);
	CqrsSkip	result = CQRS_SKIP_ADDED;
	bool		conflict = false;
	ListCell   *lc;

	simple_heap_insert(skipped, tuple);
	foreach(lc, RelationGetIndexList(skipped))
	{
		Relation	index = index_open(lfirst_oid(lc), RowExclusiveLock);
		IndexInfo  *info = BuildIndexInfo(index);

		if (info->ii_ReadyForInserts && !conflict)
			conflict = !index_insert(index, &value, &isnull, &tuple->t_self,
									 skipped, UNIQUE_CHECK_PARTIAL, false, info);
		index_close(index, RowExclusiveLock);
	}
	if (conflict)
	{
		/* A command can delete only rows of earlier ones. */
		CommandCounterIncrement();
		simple_heap_delete(skipped, &tuple->t_self);
		CommandCounterIncrement();
		result = is_skipped(skipped, id) ? CQRS_SKIP_BEFORE : CQRS_SKIP_BUSY;
	}
	table_close(skipped, RowExclusiveLock);
	return result;
}

/* Whether a committed transaction, or this one, has a message skipped. */
static bool
is_skipped(Relation skipped, int64 id)
{
	SysScanDesc scan = begin_scan(skipped, BTEqualStrategyNumber, F_INT8EQ,
								  id);
	bool		found = HeapTupleIsValid(systable_getnext(scan));

	systable_endscan(scan);
	return found;
}

int
cqrs_skipped_above(int64 id, int64 **ids)
{
	Relation	skipped = table_open(cqrs_objects_get(false)->skipped,
									 AccessShareLock);
	SysScanDesc scan = begin_scan(skipped, BTGreaterStrategyNumber, F_INT8GT,
								  id);
	HeapTuple	tuple;
	int			nroom = 16;
	int			nids = 0;

	*ids = MemoryContextAlloc(TopMemoryContext, nroom * sizeof(int64));
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (nids == nroom)
		{
			nroom *= 2;
			*ids = repalloc_huge(*ids, nroom * sizeof(int64));
		}
		(*ids)[nids++] = id_of(skipped, tuple);
	}
	systable_endscan(scan);
	table_close(skipped, AccessShareLock);
	/* The order of the index holds only while the index is used. */
	qsort(*ids, nids, sizeof(int64), compare_ids);
	return nids;
}

bool
cqrs_skipped_has(const int64 *ids, int nids, int64 id)
{
	return nids > 0 &&
		bsearch(&id, ids, nids, sizeof(int64), compare_ids) != NULL;
}

void
cqrs_skipped_forget(int64 watermark)
{
	Relation	skipped = table_open(cqrs_objects_get(false)->skipped,
									 RowExclusiveLock);
	SysScanDesc scan = begin_scan(skipped, BTLessEqualStrategyNumber,
								  F_INT8LE, watermark);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		simple_heap_delete(skipped, &tuple->t_self);
	systable_endscan(scan);
	table_close(skipped, RowExclusiveLock);
}

/* Rows whose ids compare to "id" as the operator says, in ascending order. */
static SysScanDesc
begin_scan(Relation skipped, StrategyNumber strategy, RegProcedure operator,
		   int64 id)
{
	ScanKeyData key;

	/* "id" is the only column. */
	ScanKeyInit(&key, 1, strategy, operator, Int64GetDatum(id));
	return systable_beginscan(skipped, cqrs_objects_get(false)->skipped_by_id,
							  true, NULL, 1, &key);
}

static int64
id_of(Relation skipped, HeapTuple tuple)
{
	bool		isnull;

	return DatumGetInt64(heap_getattr(tuple, 1, RelationGetDescr(skipped),
									  &isnull));
}

static int
compare_ids(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}
