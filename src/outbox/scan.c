/*-------------------------------------------------------------------------
 *
 * scan.c
 *	  Reading of pending messages from the segments of the outbox.
 *
 * A scan goes through all segments at once, each by its index on the first id
 * of a pack, and returns the message with the lowest id next.  A message's
 * strings point into its pack, which is kept until the next call.  A pack that
 * was compressed or toasted is in a memory context of the segment's scan, any
 * other is in a buffer that the scan pins.
 *
 * Publishers call this in a transaction of their own.  Everything is released
 * at the end of the scan, or with the transaction after an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "executor/tuptable.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/objects.h"
#include "outbox/pack.h"
#include "outbox/scan.h"

/* The scan of one segment, with the message that it returns next. */
typedef struct SegmentScan
{
	Relation	segment;
	Relation	index;
	SysScanDesc scan;
	bool		at_end;
	CqrsMessage message;
	TransactionId xid;			/* the message's writer */
	XLogRecPtr	changed_lsn;	/* of the last change of the row's page */
	CqrsPackReader pack;		/* the message's pack */
	MemoryContext context;		/* of the pack; reset with the next one */
} SegmentScan;

struct CqrsOutboxScan
{
	int64		from;
	int64		to;
	SnapshotData dirty;			/* of cqrs_scan_begin_dirty() */
	SegmentScan segments[CQRS_SEGMENTS];
	SegmentScan *last;			/* of the last message, or NULL */
	TransactionId last_xid;		/* its commit was looked up last */
	XLogRecPtr	commit_lsn;		/* the highest one that may not be flushed */
};

static CqrsOutboxScan *begin(CqrsOutboxScan *scan, int64 from, int64 to,
							 Snapshot snapshot);
static void segment_scan_begin(CqrsOutboxScan *scan, int segment,
							   Snapshot snapshot);
static void segment_scan_next(const CqrsOutboxScan *scan,
							  SegmentScan *segment);
static bool segment_scan_row(SegmentScan *segment);

CqrsOutboxScan *
cqrs_scan_begin(int64 from, int64 to)
{
	return begin(palloc0(sizeof(CqrsOutboxScan)), from, to,
				 GetActiveSnapshot());
}

CqrsOutboxScan *
cqrs_scan_begin_dirty(int64 from, int64 to)
{
	CqrsOutboxScan *scan = palloc0(sizeof(CqrsOutboxScan));

	InitDirtySnapshot(scan->dirty);
	return begin(scan, from, to, &scan->dirty);
}

static CqrsOutboxScan *
begin(CqrsOutboxScan *scan, int64 from, int64 to, Snapshot snapshot)
{
	scan->from = from;
	scan->to = to;
	for (int i = 0; i < CQRS_SEGMENTS; i++)
		segment_scan_begin(scan, i, snapshot);
	return scan;
}

bool
cqrs_scan_next(CqrsOutboxScan *scan, CqrsMessage *message)
{
	SegmentScan *next = NULL;

	/* Not done earlier, because it frees the strings of the last message. */
	if (scan->last != NULL)
		segment_scan_next(scan, scan->last);
	for (int i = 0; i < CQRS_SEGMENTS; i++)
	{
		SegmentScan *segment = &scan->segments[i];

		if (!segment->at_end &&
			(next == NULL || segment->message.id < next->message.id))
			next = segment;
	}
	scan->last = next;
	if (next == NULL)
		return false;

	/* VACUUM may have frozen a row whose commit is not flushed yet. */
	if (!TransactionIdIsNormal(next->xid))
		scan->commit_lsn = Max(scan->commit_lsn, next->changed_lsn);
	else if (next->xid != scan->last_xid)
	{
		scan->commit_lsn = Max(scan->commit_lsn,
							   TransactionIdGetCommitLSN(next->xid));
		scan->last_xid = next->xid;
	}
	*message = next->message;
	return true;
}

void
cqrs_scan_end(CqrsOutboxScan *scan)
{
	for (int i = 0; i < CQRS_SEGMENTS; i++)
	{
		SegmentScan *segment = &scan->segments[i];

		systable_endscan_ordered(segment->scan);
		index_close(segment->index, AccessShareLock);
		table_close(segment->segment, AccessShareLock);
		MemoryContextDelete(segment->context);
	}
	pfree(scan);
}

/*
 * With synchronous_commit off a transaction is visible before its commit is on
 * disk.  A message must not be sent before that: a crash would undo the change
 * that the message describes.
 */
void
cqrs_scan_flush_wal(CqrsOutboxScan *scan)
{
	if (!XLogRecPtrIsInvalid(scan->commit_lsn))
		XLogFlush(scan->commit_lsn);
}

/* Open a segment, and go to its first message of the scan. */
static void
segment_scan_begin(CqrsOutboxScan *scan, int segment, Snapshot snapshot)
{
	SegmentScan *result = &scan->segments[segment];
	ScanKeyData keys[2];

	/* The pack that contains "from" may begin this much lower. */
	int64		first_id = scan->from - CQRS_PACK_MESSAGES + 1;

	result->segment = table_open(cqrs_objects_get(false)->segment[segment],
								 AccessShareLock);
	result->index = index_open(cqrs_objects_get(false)->segment_index[segment],
							   AccessShareLock);
	ScanKeyInit(&keys[0], SEGMENT_ID, BTGreaterEqualStrategyNumber,
				F_INT8GE, Int64GetDatum(first_id));
	ScanKeyInit(&keys[1], SEGMENT_ID, BTLessEqualStrategyNumber,
				F_INT8LE, Int64GetDatum(scan->to));
	result->scan = systable_beginscan_ordered(result->segment, result->index,
											  snapshot, lengthof(keys), keys);
	result->context = AllocSetContextCreate(CurrentMemoryContext,
											"cqrs outbox pack",
											ALLOCSET_DEFAULT_SIZES);
	segment_scan_next(scan, result);
}

/* Go to the segment's next message in the range of the scan. */
static void
segment_scan_next(const CqrsOutboxScan *scan, SegmentScan *segment)
{
	do
	{
		while (!cqrs_pack_next(&segment->pack, &segment->message))
		{
			if (!segment_scan_row(segment))
			{
				segment->at_end = true;
				return;
			}
		}
	} while (segment->message.id < scan->from);
	segment->at_end = segment->message.id > scan->to;
}

/* Go to the next row; false at the end of the segment. */
static bool
segment_scan_row(SegmentScan *segment)
{
	HeapTuple	tuple = systable_getnext_ordered(segment->scan,
												 ForwardScanDirection);
	Datum		values[SEGMENT_NATTS];
	bool		nulls[SEGMENT_NATTS];
	MemoryContext caller;

	if (!HeapTupleIsValid(tuple))
		return false;
	MemoryContextReset(segment->context);
	caller = MemoryContextSwitchTo(segment->context);
	heap_deform_tuple(tuple, RelationGetDescr(segment->segment), values,
					  nulls);
	segment->xid = HeapTupleHeaderGetXmin(tuple->t_data);
	segment->changed_lsn =
		BufferGetLSNAtomic(((BufferHeapTupleTableSlot *) segment->scan->slot)->buffer);
	segment->message.committed_at =
		DatumGetTimestampTz(values[SEGMENT_COMMITTED_AT - 1]);
	cqrs_pack_open(&segment->pack, values[SEGMENT_MESSAGES - 1],
				   DatumGetInt64(values[SEGMENT_ID - 1]));
	MemoryContextSwitchTo(caller);
	return true;
}
