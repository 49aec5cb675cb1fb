/*-------------------------------------------------------------------------
 *
 * parked.c
 *	  Messages that are put aside, lest they hold up others.
 *
 * Two kinds: messages that a function of the user's has failed to make, where
 * the master has on_error "park"; written in the transaction that changed the
 * row (resolve.c).  And messages that the broker refuses for themselves;
 * written by the publisher.  Rows of cqrs.parked are written directly, whatever
 * the rights of the role that is changing a master's row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/objects.h"
#include "outbox/parked.h"

/* Columns of cqrs.parked */
enum
{
	PARKED_ID = 1,
	PARKED_AT,
	PARKED_REASON,
	PARKED_ERROR,
	PARKED_COMMITTED_AT,
	PARKED_SIGNAL_TYPE,
	PARKED_CQRS_ID,				/* from here on texts ... */
	PARKED_INSTANCE_PK,
	PARKED_INSTANCE_DATA,
	PARKED_PREVIOUS_DATA,
	PARKED_META,
	PARKED_QUEUE,
	PARKED_CORRELATION_ID,
	PARKED_EXCHANGE,
	PARKED_ROUTING_KEY,			/* ... to here */
	PARKED_MESSAGE_TTL,
	PARKED_ROW_DATA,
	PARKED_NATTS = PARKED_ROW_DATA
};

static CqrsParked *from_tuple(Relation rel, HeapTuple tuple);
static int	compare_id(const ListCell *a, const ListCell *b);

void
cqrs_parked_insert(const CqrsMessage *message, CqrsParkReason reason,
				   const char *error, const char *row)
{
	Relation	parked = table_open(cqrs_catalog_objects(false)->parked,
									RowExclusiveLock);
	Datum		values[PARKED_NATTS];
	bool		nulls[PARKED_NATTS] = {false};
	const char *texts[] = {
		message->cqrs_id, message->instance_pk, message->instance_data,
		message->previous_data, message->meta, message->queue,
		message->correlation_id, message->exchange, message->routing_key
	};

	values[PARKED_ID - 1] = Int64GetDatum(message->id);
	values[PARKED_AT - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[PARKED_REASON - 1] =
		CStringGetTextDatum(reason == CQRS_PARK_HOOK ? "hook" : "refused");
	values[PARKED_ERROR - 1] = CStringGetTextDatum(error);
	values[PARKED_COMMITTED_AT - 1] = TimestampTzGetDatum(message->committed_at);
	values[PARKED_SIGNAL_TYPE - 1] = CharGetDatum(message->signal);
	for (int i = 0; i < lengthof(texts); i++)
	{
		int			att = PARKED_CQRS_ID - 1 + i;

		nulls[att] = texts[i] == NULL;
		values[att] = nulls[att] ? (Datum) 0 : CStringGetTextDatum(texts[i]);
	}
	nulls[PARKED_MESSAGE_TTL - 1] = message->ttl_s < 0;
	values[PARKED_MESSAGE_TTL - 1] = Int32GetDatum(message->ttl_s);
	nulls[PARKED_ROW_DATA - 1] = row == NULL;
	values[PARKED_ROW_DATA - 1] = row == NULL ? (Datum) 0 :
		CStringGetTextDatum(row);

	CatalogTupleInsert(parked, heap_form_tuple(RelationGetDescr(parked),
											   values, nulls));
	table_close(parked, RowExclusiveLock);
}

List *
cqrs_parked_read_all(void)
{
	Relation	rel = table_open(cqrs_catalog_objects(false)->parked,
								 AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0,
										  NULL);
	HeapTuple	tuple;
	List	   *list = NIL;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		list = lappend(list, from_tuple(rel, tuple));
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	list_sort(list, compare_id);
	return list;
}

static CqrsParked *
from_tuple(Relation rel, HeapTuple tuple)
{
	CqrsParked *parked = palloc0(sizeof(CqrsParked));
	CqrsMessage *message = &parked->message;
	Datum		values[PARKED_NATTS];
	bool		nulls[PARKED_NATTS];
	const char **texts[] = {
		&message->cqrs_id, &message->instance_pk, &message->instance_data,
		&message->previous_data, &message->meta, &message->queue,
		&message->correlation_id, &message->exchange, &message->routing_key
	};

	heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
	parked->tid = tuple->t_self;
	message->id = DatumGetInt64(values[PARKED_ID - 1]);
	message->committed_at = DatumGetTimestampTz(values[PARKED_COMMITTED_AT - 1]);
	message->signal = DatumGetChar(values[PARKED_SIGNAL_TYPE - 1]);
	for (int i = 0; i < lengthof(texts); i++)
	{
		int			att = PARKED_CQRS_ID - 1 + i;

		*texts[i] = nulls[att] ? NULL : TextDatumGetCString(values[att]);
	}
	message->ttl_s = nulls[PARKED_MESSAGE_TTL - 1] ? -1 :
		DatumGetInt32(values[PARKED_MESSAGE_TTL - 1]);
	if (!nulls[PARKED_ROW_DATA - 1])
		parked->row = TextDatumGetCString(values[PARKED_ROW_DATA - 1]);
	return parked;
}

static int
compare_id(const ListCell *a, const ListCell *b)
{
	int64		x = ((CqrsParked *) lfirst(a))->message.id;
	int64		y = ((CqrsParked *) lfirst(b))->message.id;

	return x < y ? -1 : x > y;
}

/* With those of transactions that still run, are prepared or have failed. */
int64
cqrs_parked_max_id(void)
{
	Relation	parked = table_open(cqrs_catalog_objects(false)->parked,
									AccessShareLock);
	SysScanDesc scan = systable_beginscan(parked, InvalidOid, false,
										  SnapshotAny, 0, NULL);
	int64		highest = -1;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		int64		id = DatumGetInt64(heap_getattr(tuple, PARKED_ID,
													RelationGetDescr(parked),
													&isnull));

		highest = Max(highest, id);
	}
	systable_endscan(scan);
	table_close(parked, AccessShareLock);
	return highest;
}

int
cqrs_parked_above(int64 id, int64 **ids)
{
	Relation	parked = table_open(cqrs_catalog_objects(false)->parked,
									AccessShareLock);
	SysScanDesc scan = systable_beginscan(parked, InvalidOid, false, NULL, 0,
										  NULL);
	HeapTuple	tuple;
	int			nroom = 16;
	int			nids = 0;

	*ids = MemoryContextAlloc(TopMemoryContext, nroom * sizeof(int64));
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		int64		found = DatumGetInt64(heap_getattr(tuple, PARKED_ID,
													   RelationGetDescr(parked),
													   &isnull));

		if (found <= id)
			continue;
		if (nids == nroom)
		{
			nroom *= 2;
			*ids = repalloc(*ids, nroom * sizeof(int64));
		}
		(*ids)[nids++] = found;
	}
	systable_endscan(scan);
	table_close(parked, AccessShareLock);
	return nids;
}
