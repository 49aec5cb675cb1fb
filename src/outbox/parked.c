/*-------------------------------------------------------------------------
 *
 * parked.c
 *	  Parked messages: kept in a table of their own, so that others are sent.
 *
 * There are three kinds.  Messages that a user's function has failed to make,
 * where the master has on_error "park", are written in the transaction that
 * changed the row (capture/resolve.c).  Messages that the broker rejects
 * because of their content or size are written by the publisher.  Messages
 * whose route does not work are written by cqrs_park_held(), and by the
 * publisher if their master is gone.  Rows of cqrs.parked are written
 * directly, whatever the privileges of the role that changes a master's row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/indexing.h"
#include "executor/tuptable.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/objects.h"
#include "outbox/parked.h"
#include "outbox/skipped.h"

/* Columns of cqrs.parked */
enum
{
	PARKED_ID = 1,
	PARKED_AT,
	PARKED_REASON,
	PARKED_ERROR,
	PARKED_COMMITTED_AT,
	PARKED_SIGNAL_TYPE,
	PARKED_CQRS_ID,				/* the texts begin ... */
	PARKED_INSTANCE_PK,
	PARKED_INSTANCE_DATA,
	PARKED_PREVIOUS_DATA,
	PARKED_META,
	PARKED_QUEUE,
	PARKED_CORRELATION_ID,
	PARKED_EXCHANGE,
	PARKED_ROUTING_KEY,			/* ... and end */
	PARKED_MESSAGE_TTL,
	PARKED_ROW_DATA,
	PARKED_NATTS = PARKED_ROW_DATA
};

static const char *const reasons[] = {
	[CQRS_PARK_HOOK] = "hook",
	[CQRS_PARK_REFUSED] = "refused",
	[CQRS_PARK_HELD] = "held"
};

static void insert(const CqrsMessage *message, CqrsParkReason reason,
				   const char *error, const char *row);
static void fill(CqrsParked *parked, Relation rel, HeapTuple tuple);
static int	compare_id(const ListCell *a, const ListCell *b);
static void update_row(Relation parked, HeapTuple tuple, const char *row);
static char *with_key_renamed(const char *object, const char *from,
							  const char *to);
static const char *end_of_string(const char *string);
static const char *end_of_value(const char *value);

CqrsSkip
cqrs_parked_move(const CqrsMessage *message, CqrsParkReason reason,
				 const char *error)
{
	CqrsSkip	skip = cqrs_skipped_add(message->id);

	if (skip == CQRS_SKIP_ADDED)
		insert(message, reason, error, NULL);
	return skip;
}

void
cqrs_parked_insert(const CqrsMessage *message, const char *error,
				   const char *row)
{
	insert(message, CQRS_PARK_HOOK, error, row);
}

static void
insert(const CqrsMessage *message, CqrsParkReason reason, const char *error,
	   const char *row)
{
	Relation	parked = table_open(cqrs_objects_get(false)->parked,
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
	values[PARKED_REASON - 1] = CStringGetTextDatum(reasons[reason]);
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
cqrs_parked_list(void)
{
	Relation	rel = table_open(cqrs_objects_get(false)->parked,
								 AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0,
										  NULL);
	HeapTuple	tuple;
	List	   *list = NIL;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		CqrsParked *parked = palloc0(sizeof(CqrsParked));
		bool		isnull;

		parked->tid = tuple->t_self;
		parked->message.id = DatumGetInt64(heap_getattr(tuple, PARKED_ID,
														RelationGetDescr(rel),
														&isnull));
		parked->message.cqrs_id =
			TextDatumGetCString(heap_getattr(tuple, PARKED_CQRS_ID,
											 RelationGetDescr(rel), &isnull));
		list = lappend(list, parked);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	list_sort(list, compare_id);
	return list;
}

bool
cqrs_parked_read(Relation rel, CqrsParked *parked)
{
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		found = table_tuple_fetch_row_version(rel, &parked->tid,
													  snapshot, slot);

	if (found)
		fill(parked, rel, ExecFetchSlotHeapTuple(slot, true, NULL));
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	return found;
}

static void
fill(CqrsParked *parked, Relation rel, HeapTuple tuple)
{
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
}

static int
compare_id(const ListCell *a, const ListCell *b)
{
	int64		x = ((CqrsParked *) lfirst(a))->message.id;
	int64		y = ((CqrsParked *) lfirst(b))->message.id;

	return x < y ? -1 : x > y;
}

void
cqrs_parked_follow(const char *cqrs_id, const char *from, const char *to)
{
	Relation	rel = table_open(cqrs_objects_get(false)->parked,
								 RowExclusiveLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0,
										  NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		CqrsParked	parked = {0};

		fill(&parked, rel, tuple);
		if (parked.row != NULL &&
			strcmp(parked.message.cqrs_id, cqrs_id) == 0)
			update_row(rel, tuple, with_key_renamed(parked.row, from, to));
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, RowExclusiveLock);
}

static void
update_row(Relation parked, HeapTuple tuple, const char *row)
{
	Datum		values[PARKED_NATTS] = {0};
	bool		nulls[PARKED_NATTS] = {false};
	bool		replaces[PARKED_NATTS] = {false};
	HeapTuple	updated;

	values[PARKED_ROW_DATA - 1] = CStringGetTextDatum(row);
	replaces[PARKED_ROW_DATA - 1] = true;
	updated = heap_modify_tuple(tuple, RelationGetDescr(parked), values, nulls,
								replaces);
	CatalogTupleUpdate(parked, &tuple->t_self, updated);
}

/*
 * A JSON object with one of its keys renamed or, if "to" is NULL, removed.
 * The object is not parsed, because PostgreSQL may be unable to convert its
 * values.  Keys are compared as row_to_json() writes them.  A value that is
 * not an object is returned unchanged.
 */
static char *
with_key_renamed(const char *object, const char *from, const char *to)
{
	StringInfoData result;
	StringInfoData old;
	StringInfoData new;
	const char *next = object + strcspn(object, "{");

	initStringInfo(&result);
	initStringInfo(&old);
	initStringInfo(&new);
	escape_json(&old, from);
	if (to != NULL)
		escape_json(&new, to);

	while (*next == '{' || *next == ',')
	{
		const char *key = next + 1 + strspn(next + 1, " \t\r\n");
		const char *key_end = end_of_string(key);
		const char *value_end = end_of_value(key_end);
		bool		meant = key_end - key == old.len &&
		memcmp(key, old.data, old.len) == 0;

		next = value_end;
		if (*key != '"')
			break;
		if (meant && to == NULL)
			continue;
		appendStringInfoChar(&result, result.len == 0 ? '{' : ',');
		if (meant)
			appendStringInfoString(&result, new.data);
		else
			appendBinaryStringInfo(&result, key, key_end - key);
		appendBinaryStringInfo(&result, key_end, value_end - key_end);
	}
	if (*next != '}')
		return pstrdup(object);
	appendStringInfoString(&result, result.len == 0 ? "{}" : "}");
	return result.data;
}

/* The end of the JSON string that begins here. */
static const char *
end_of_string(const char *string)
{
	const char *next = string + 1;

	while (*next != '\0' && *next != '"')
		next += *next == '\\' && next[1] != '\0' ? 2 : 1;
	return *next == '"' ? next + 1 : next;
}

/* The comma or brace that ends the value of a key. */
static const char *
end_of_value(const char *value)
{
	const char *next = value;
	int			depth = 0;

	while (*next != '\0' && (depth > 0 || (*next != ',' && *next != '}')))
	{
		if (*next == '"')
		{
			next = end_of_string(next);
			continue;
		}
		if (*next == '{' || *next == '[')
			depth++;
		else if (*next == '}' || *next == ']')
			depth--;
		next++;
	}
	return next;
}

/*
 * Includes rows of transactions that still run, are prepared or have failed.
 */
int64
cqrs_parked_max_id(void)
{
	Relation	parked = table_open(cqrs_objects_get(false)->parked,
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
