/*-------------------------------------------------------------------------
 *
 * outbox.c
 *	  Writing and recycling of the segments of the outbox.
 *
 * The outbox is CQRS_SEGMENTS tables of one shape.  Rows are only ever
 * inserted; a segment is emptied as a whole, by TRUNCATE, once all its ids are
 * at or below the watermark.  So an old snapshot never makes the publisher
 * scan dead rows.
 *
 * Ids.  A transaction draws a batch of CQRS_BATCH_ROWS consecutive ids from a
 * counter in shared memory when it commits, while it still holds its row
 * locks.  So for one row the order of ids is the order of commits.  A
 * transaction gets its transaction id before it draws, which lets the reader
 * find out that a batch that it does not see will never appear (reader.c).
 * The counter is not a sequence, because nextval() would change the result of
 * lastval() in the user's session, and would write WAL.  After a restart the
 * counter continues above the highest id in the segments or parked, visible or
 * not, and above the watermark; on another timeline, far above.
 *
 * The current segment is a hint in shared memory.  Writing to another segment
 * is never wrong, since readers read all segments and a segment is only
 * emptied if it holds nothing above the watermark.
 *
 * Locks: writers hold ROW EXCLUSIVE on a segment until they commit; recycling
 * takes ACCESS EXCLUSIVE if the lock is free, which proves that nobody is
 * writing (a prepared transaction keeps its locks).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "port/atomics.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/guc.h"
#include "base/objects.h"
#include "base/slot.h"
#include "outbox/pack.h"
#include "outbox/parked.h"
#include "outbox/outbox.h"

/* The size of a pack: as much as fits a page uncompressed. */
#define PACK_BYTES	8000

/* Rows that are inserted together: enough to fill some pages. */
#define WRITE_ROWS	64
#define WRITE_BYTES	(128 * 1024)

/* A session warns of the size of the outbox this often. */
#define WARN_INTERVAL_MS	60000

/* A segment of this size gives way to the next, if that one is empty. */
#define SEGMENT_FULL_BLOCKS		(64 * 1024 * 1024 / BLCKSZ)
/* If nothing is pending, the current segment is emptied from this size on. */
#define SEGMENT_IDLE_BLOCKS		(1024 * 1024 / BLCKSZ)

/* The first batch of timeline n is (n - 1) times 2 to this power. */
#define TIMELINE_SHIFT	31

struct CqrsOutboxWriter
{
	Relation	segment;
	CatalogIndexState indexes;
	TimestampTz committed_at;
	int64		next_id;
	int64		end_id;			/* of the batch */
	StringInfoData pack;		/* messages not yet in a row */
	int64		pack_id;		/* id of the first of them */
	int			npacked;
	int			nslots;			/* slots made so far */
	int			nrows;			/* slots that are filled */
	Size		bytes;
	TupleTableSlot *slots[WRITE_ROWS];
	MemoryContext rows;			/* reset with each insertion */
};

PG_FUNCTION_INFO_V1(cqrs_sql_watermark);

/* What the writers of a database share. */
typedef struct SharedWriter
{
	pg_atomic_uint64 next_batch;	/* next batch of ids, 0: not known yet */
	pg_atomic_uint32 segment;	/* the segment to write to; a hint */
} SharedWriter;

static SharedWriter *writers;	/* by slot */

static void init_writer(void *element);
static void reset_writer(void *element);
static void check_size(void);
static void finish_pack(CqrsOutboxWriter *writer, int length);
static void insert_rows(CqrsOutboxWriter *writer);
static void insert_index_entries(CqrsOutboxWriter *writer,
								 TupleTableSlot *slot);
static uint64 first_batch(void);
static int64 segment_max_id(int segment);
static BlockNumber segment_blocks(Oid segment);
static bool try_truncate(int segment, int64 watermark, bool *busy);

void
cqrs_outbox_init(void)
{
	static const CqrsSharedArray array = {
		.name = "cqrs outbox",
		.size = sizeof(SharedWriter),
		.by_slot = true,
		.elements = (void **) &writers,
		.init = init_writer,
		.reset = reset_writer
	};

	cqrs_slot_add_array(&array);
}

uint64
cqrs_outbox_next_batch(int slot)
{
	return pg_atomic_read_u64(&writers[slot].next_batch);
}

static void
init_writer(void *element)
{
	pg_atomic_init_u64(&((SharedWriter *) element)->next_batch, 0);
	pg_atomic_init_u32(&((SharedWriter *) element)->segment, 0);
}

/* Another database gets the slot: its first writer finds out the next batch. */
static void
reset_writer(void *element)
{
	pg_atomic_write_u64(&((SharedWriter *) element)->next_batch, 0);
	pg_atomic_write_u32(&((SharedWriter *) element)->segment, 0);
}

CqrsOutboxWriter *
cqrs_outbox_begin(void)
{
	CqrsOutboxWriter *writer = palloc(sizeof(CqrsOutboxWriter));
	uint32		segment;

	if (cqrs_max_pending_kb > 0)
		check_size();

	/* The transaction id has to be assigned before the batch is drawn. */
	(void) GetTopTransactionId();

	segment = pg_atomic_read_u32(&writers[cqrs_slot_mine()].segment);
	writer->segment = table_open(cqrs_objects_get(false)->segment[segment],
								 RowExclusiveLock);
	/* The one of ids; while REINDEX CONCURRENTLY is at work, there are two. */
	writer->indexes = CatalogOpenIndexes(writer->segment);
	writer->committed_at = GetCurrentTimestamp();
	writer->next_id = 0;
	writer->end_id = 0;
	initStringInfo(&writer->pack);
	writer->npacked = 0;
	writer->nslots = 0;
	writer->nrows = 0;
	writer->bytes = 0;
	writer->rows = AllocSetContextCreate(CurrentMemoryContext, "cqrs outbox",
										 ALLOCSET_SMALL_MINSIZE,
										 ALLOCSET_SMALL_INITSIZE,
										 ALLOCSET_DEFAULT_MAXSIZE);
	return writer;
}

void
cqrs_outbox_append(CqrsOutboxWriter *writer, const CqrsMessage *message)
{
	int64		id = cqrs_outbox_draw_id(writer);
	int			length = writer->pack.len;

	cqrs_pack_append(&writer->pack, message);
	if (writer->npacked > 0 &&
		(writer->pack.len > PACK_BYTES ||
		 writer->npacked == CQRS_PACK_MESSAGES ||
		 id != writer->pack_id + writer->npacked ||
		 cqrs_batch_of(id) != cqrs_batch_of(writer->pack_id)))
		finish_pack(writer, length);
	if (writer->npacked == 0)
		writer->pack_id = id;
	writer->npacked++;
}

/*
 * Make a row of the first "length" bytes of the pack.  The rest stays in it.
 */
static void
finish_pack(CqrsOutboxWriter *writer, int length)
{
	TupleDesc	desc = RelationGetDescr(writer->segment);
	StringInfo	pack = &writer->pack;
	MemoryContext caller;
	Datum		values[SEGMENT_NATTS];
	bool		nulls[SEGMENT_NATTS] = {false};
	HeapTuple	tuple;

	if (writer->npacked == 0)
		return;
	if (writer->nrows == writer->nslots)
		writer->slots[writer->nslots++] =
			MakeSingleTupleTableSlot(desc, &TTSOpsHeapTuple);

	caller = MemoryContextSwitchTo(writer->rows);
	values[SEGMENT_ID - 1] = Int64GetDatum(writer->pack_id);
	values[SEGMENT_LAST_ID - 1] =
		Int64GetDatum(writer->pack_id + writer->npacked - 1);
	values[SEGMENT_COMMITTED_AT - 1] = TimestampTzGetDatum(writer->committed_at);
	values[SEGMENT_MESSAGES - 1] = cqrs_pack_value(pack->data, length);
	tuple = heap_form_tuple(desc, values, nulls);
	tuple->t_tableOid = RelationGetRelid(writer->segment);
	ExecStoreHeapTuple(tuple, writer->slots[writer->nrows], false);
	MemoryContextSwitchTo(caller);

	writer->npacked = 0;
	pack->len -= length;
	memmove(pack->data, pack->data + length, pack->len + 1);

	writer->nrows++;
	writer->bytes += tuple->t_len;
	if (writer->nrows == WRITE_ROWS || writer->bytes >= WRITE_BYTES)
		insert_rows(writer);
}

/*
 * Warn or raise an error if the outbox is too large.  Its size is that of its
 * files, so published segments that are not emptied yet count, too: some 130
 * MB at the most.
 */
static void
check_size(void)
{
	static TimestampTz warned_at = 0;
	const CqrsObjects *objects = cqrs_objects_get(false);
	bool		refuse = cqrs_outbox_full == CQRS_OUTBOX_FULL_REFUSE;
	int64		size_kb = 0;

	for (int i = 0; i < CQRS_SEGMENTS; i++)
		size_kb += segment_blocks(objects->segment[i]) * (int64) (BLCKSZ / 1024);
	if (size_kb < cqrs_max_pending_kb ||
		(!refuse && !TimestampDifferenceExceeds(warned_at, GetCurrentTimestamp(),
												WARN_INTERVAL_MS)))
		return;

	warned_at = GetCurrentTimestamp();
	ereport(refuse ? ERROR : WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("outbox has %lld kB, and the limit \"cqrs.max_pending_bytes\" is %d kB",
					(long long) size_kb, cqrs_max_pending_kb),
			 errhint("See cqrs_check() or cqrs.stats for why messages are not published.")));
}

int64
cqrs_outbox_draw_id(CqrsOutboxWriter *writer)
{
	if (writer->next_id == writer->end_id)
		cqrs_outbox_draw_batch(writer);
	return writer->next_id++;
}

void
cqrs_outbox_end(CqrsOutboxWriter *writer)
{
	finish_pack(writer, writer->pack.len);
	insert_rows(writer);
	for (int i = 0; i < writer->nslots; i++)
		ExecDropSingleTupleTableSlot(writer->slots[i]);
	CatalogCloseIndexes(writer->indexes);
	table_close(writer->segment, NoLock);
	MemoryContextDelete(writer->rows);
	pfree(writer->pack.data);
	pfree(writer);
}

void
cqrs_outbox_draw_batch(CqrsOutboxWriter *writer)
{
	SharedWriter *shared = &writers[cqrs_slot_mine()];
	uint64		batch;

	if (pg_atomic_read_u64(&shared->next_batch) == 0)
	{
		uint64		unknown = 0;

		/*
		 * If another backend is first, it has computed the same value, since
		 * no batch has been drawn yet.
		 */
		pg_atomic_compare_exchange_u64(&shared->next_batch, &unknown,
									   first_batch());
	}
	Assert(TransactionIdIsValid(GetTopTransactionIdIfAny()));	/* I3 */
	batch = pg_atomic_fetch_add_u64(&shared->next_batch, 1);
	writer->next_id = cqrs_batch_first_id((int64) batch);
	writer->end_id = cqrs_batch_first_id((int64) batch + 1);
	Assert(writer->next_id > cqrs_outbox_watermark());	/* I11 */
}

/* Write the rows that are buffered, with their index entries. */
static void
insert_rows(CqrsOutboxWriter *writer)
{
	MemoryContext caller;

	if (writer->nrows == 0)
		return;

	caller = MemoryContextSwitchTo(writer->rows);
	heap_multi_insert(writer->segment, writer->slots, writer->nrows,
					  GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < writer->nrows; i++)
	{
		insert_index_entries(writer, writer->slots[i]);
		ExecClearTuple(writer->slots[i]);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextReset(writer->rows);
	writer->nrows = 0;
	writer->bytes = 0;
}

/*
 * The row of a slot is in the table, and maybe in another form than in the slot,
 * because it was toasted; the slot has its place.
 */
static void
insert_index_entries(CqrsOutboxWriter *writer, TupleTableSlot *slot)
{
	bool		isnull = false;
	Datum		id = slot_getattr(slot, SEGMENT_ID, &isnull);

	for (int i = 0; i < writer->indexes->ri_NumIndices; i++)
	{
		IndexInfo  *info = writer->indexes->ri_IndexRelationInfo[i];

		if (info->ii_ReadyForInserts)
			index_insert(writer->indexes->ri_IndexRelationDescs[i], &id,
						 &isnull, &slot->tts_tid, writer->segment,
						 UNIQUE_CHECK_NO, false, info);
	}
}

/*
 * The first batch above every id in the segments and in cqrs.parked, including
 * rows of transactions that still run, are prepared or have failed.  Parked
 * ids count because a message that was parked when it was made is in no
 * segment, and the reader would skip a new message with the same id.
 *
 * Each timeline has batches of its own: a server that was promoted, or
 * recovered to a point in time, does not know all batches that have been
 * drawn.
 */
static uint64
first_batch(void)
{
	int64		highest = Max(cqrs_outbox_watermark(), cqrs_parked_max_id());

	for (int i = 0; i < CQRS_SEGMENTS; i++)
		highest = Max(highest, segment_max_id(i));
	return Max((uint64) cqrs_batch_of(highest) + 1,
			   (uint64) (GetWALInsertionTimeLine() - 1) << TIMELINE_SHIFT);
}

/* The highest id in a segment, visible or not; -1 if there is none. */
static int64
segment_max_id(int segment)
{
	Relation	rel = table_open(cqrs_objects_get(false)->segment[segment],
								 AccessShareLock);
	Relation	idx = index_open(cqrs_objects_get(false)->segment_index[segment],
								 AccessShareLock);
	SysScanDesc scan = systable_beginscan_ordered(rel, idx, SnapshotAny, 0, NULL);
	HeapTuple	tuple = systable_getnext_ordered(scan, BackwardScanDirection);
	int64		id = -1;
	bool		isnull;

	if (HeapTupleIsValid(tuple))
		id = DatumGetInt64(heap_getattr(tuple, SEGMENT_LAST_ID,
										RelationGetDescr(rel), &isnull));
	systable_endscan_ordered(scan);
	index_close(idx, AccessShareLock);
	table_close(rel, AccessShareLock);
	return id;
}

/*
 * The watermark is a sequence's value: setval() changes it in place, logs it,
 * and leaves no dead row.  A crash can only set it back.
 */
int64
cqrs_outbox_watermark(void)
{
	LOCAL_FCINFO(call, 1);
	Datum		watermark;

	InitFunctionCallInfoData(*call, NULL, 1, InvalidOid, NULL, NULL);
	call->args[0].value = ObjectIdGetDatum(cqrs_objects_get(false)->watermark);
	call->args[0].isnull = false;
	watermark = pg_sequence_last_value(call);
	if (call->isnull)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sequence \"cqrs.watermark\" has no value"),
				 errdetail("ALTER SEQUENCE ... RESTART removes the value."),
				 errhint("Use SELECT setval('cqrs.watermark', 0). Messages that are still in the outbox are published again.")));
	return DatumGetInt64(watermark);
}

/* cqrs.current_watermark() RETURNS bigint */
Datum
cqrs_sql_watermark(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(cqrs_outbox_watermark());
}

void
cqrs_outbox_set_watermark(int64 watermark)
{
	const CqrsObjects *objects = cqrs_objects_get(false);

	(void) DirectFunctionCall2(setval_oid,
							   ObjectIdGetDatum(objects->watermark),
							   Int64GetDatum(watermark));
}

bool
cqrs_outbox_recycle(int64 watermark, bool idle)
{
	const CqrsObjects *objects = cqrs_objects_get(false);
	SharedWriter *shared = &writers[cqrs_slot_mine()];
	uint32		current = pg_atomic_read_u32(&shared->segment);
	BlockNumber blocks[CQRS_SEGMENTS];
	bool		busy = false;

	for (int i = 0; i < CQRS_SEGMENTS; i++)
	{
		BlockNumber limit = i == current ? SEGMENT_IDLE_BLOCKS : 1;

		blocks[i] = segment_blocks(objects->segment[i]);
		if (blocks[i] >= limit && (i != current || idle) &&
			try_truncate(i, watermark, &busy))
			blocks[i] = 0;
	}

	for (int i = 1; i < CQRS_SEGMENTS; i++)
	{
		int			candidate = (current + i) % CQRS_SEGMENTS;

		if (blocks[current] >= SEGMENT_FULL_BLOCKS && blocks[candidate] == 0)
		{
			pg_atomic_write_u32(&shared->segment, candidate);
			break;
		}
	}
	return !busy;
}

/* The size of a segment, with its toasted values. */
static BlockNumber
segment_blocks(Oid segment)
{
	Relation	rel = table_open(segment, AccessShareLock);
	Relation	toast = table_open(rel->rd_rel->reltoastrelid, AccessShareLock);
	BlockNumber blocks = RelationGetNumberOfBlocks(rel) +
	RelationGetNumberOfBlocks(toast);

	table_close(toast, AccessShareLock);
	table_close(rel, AccessShareLock);
	return blocks;
}

/*
 * Empty a segment if it holds nothing above the watermark.  If its lock is not
 * free, set *busy instead.  The lock is kept until the end of the transaction.
 */
static bool
try_truncate(int segment, int64 watermark, bool *busy)
{
	Oid			relid = cqrs_objects_get(false)->segment[segment];
	Relation	rel;

	if (!ConditionalLockRelationOid(relid, AccessExclusiveLock))
	{
		*busy = true;
		return false;
	}
	if (segment_max_id(segment) > watermark)
	{
		UnlockRelationOid(relid, AccessExclusiveLock);
		return false;
	}

	rel = table_open(relid, NoLock);
	Assert(watermark <= cqrs_outbox_watermark());	/* I14 */
	Assert(CheckRelationLockedByMe(rel, AccessExclusiveLock, false));
	cqrs_truncate(rel);
	table_close(rel, NoLock);
	return true;
}
