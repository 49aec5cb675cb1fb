/*-------------------------------------------------------------------------
 *
 * parked.c
 *	  Parked messages: kept in a table of their own, so that others are sent.
 *
 * There are three kinds.  Messages that a user's function has failed to make,
 * where the master has on_error "park", are written in the transaction that
 * changed the row (compose.c, park()).  Messages that the broker rejects
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
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/objects.h"
#include "outbox/parked.h"
#include "outbox/skipped.h"

/* Columns of cqrs.parked; those of the parts of messages are found by name. */
enum
{
	PARKED_ID = 1,
	PARKED_AT,
	PARKED_REASON,
	PARKED_ERROR,
	PARKED_COMMITTED_AT,
	PARKED_SIGNAL_TYPE,
	PARKED_ROW_DATA = 17
};

static const char *const reasons[] = {
	[CQRS_PARK_HOOK] = "hook",
	[CQRS_PARK_REFUSED] = "refused",
	[CQRS_PARK_HELD] = "held"
};

static void insert(const CqrsMessage *message, CqrsParkReason reason,
				   const char *error, const char *row);
static int	column_of(const CqrsMessagePart *part, TupleDesc desc);
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

/* Add a message to cqrs.parked.  "row" is its row as JSON, or NULL. */
static void
insert(const CqrsMessage *message, CqrsParkReason reason, const char *error,
	   const char *row)
{
	Relation	parked = table_open(cqrs_objects_get(false)->parked,
									RowExclusiveLock);
	TupleDesc	desc = RelationGetDescr(parked);
	Datum	   *values = palloc0(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc0(sizeof(bool) * desc->natts);

	values[PARKED_ID - 1] = Int64GetDatum(message->id);
	values[PARKED_AT - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[PARKED_REASON - 1] = CStringGetTextDatum(reasons[reason]);
	values[PARKED_ERROR - 1] = CStringGetTextDatum(error);
	values[PARKED_COMMITTED_AT - 1] = TimestampTzGetDatum(message->committed_at);
	values[PARKED_SIGNAL_TYPE - 1] = CharGetDatum(message->signal);
	for (int i = 0; i < cqrs_message_nparts; i++)
	{
		const CqrsMessagePart *part = &cqrs_message_parts[i];
		int			column = column_of(part, desc);

		values[column - 1] = cqrs_message_part_get(part, message, &nulls[column - 1]);
	}
	nulls[PARKED_ROW_DATA - 1] = row == NULL;
	values[PARKED_ROW_DATA - 1] = row == NULL ? (Datum) 0 :
		CStringGetTextDatum(row);

	CatalogTupleInsert(parked, heap_form_tuple(desc, values, nulls));
	table_close(parked, RowExclusiveLock);
}

/* The number of the column of cqrs.parked that has a part of messages. */
static int
column_of(const CqrsMessagePart *part, TupleDesc desc)
{
	int			column = SPI_fnumber(desc, part->name);

	if (column <= 0)
		elog(ERROR, "cqrs.parked has no column \"%s\"", part->name);
	return column;
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
			TextDatumGetCString(heap_getattr(tuple,
											 SPI_fnumber(RelationGetDescr(rel), "cqrs_id"),
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

/* Fill in from a row of cqrs.parked; texts are in the current context. */
static void
fill(CqrsParked *parked, Relation rel, HeapTuple tuple)
{
	CqrsMessage *message = &parked->message;
	TupleDesc	desc = RelationGetDescr(rel);
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * desc->natts);

	heap_deform_tuple(tuple, desc, values, nulls);
	parked->tid = tuple->t_self;
	message->id = DatumGetInt64(values[PARKED_ID - 1]);
	message->committed_at = DatumGetTimestampTz(values[PARKED_COMMITTED_AT - 1]);
	message->signal = DatumGetChar(values[PARKED_SIGNAL_TYPE - 1]);
	for (int i = 0; i < cqrs_message_nparts; i++)
	{
		const CqrsMessagePart *part = &cqrs_message_parts[i];
		int			column = column_of(part, desc);

		cqrs_message_part_set(part, message, values[column - 1], nulls[column - 1]);
	}
	if (!nulls[PARKED_ROW_DATA - 1])
		parked->row = TextDatumGetCString(values[PARKED_ROW_DATA - 1]);
	pfree(values);
	pfree(nulls);
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

/* Write the row of a parked message, JSON, which has changed. */
static void
update_row(Relation parked, HeapTuple tuple, const char *row)
{
	int			column = PARKED_ROW_DATA;
	Datum		value = CStringGetTextDatum(row);
	bool		isnull = false;
	HeapTuple	updated = heap_modify_tuple_by_cols(tuple,
													RelationGetDescr(parked),
													1, &column, &value,
													&isnull);

	CatalogTupleUpdate(parked, &tuple->t_self, updated);
}

/*
 * A JSON object with one of its keys renamed or, if "to" is NULL, removed.
 * The object is not parsed, because PostgreSQL may be unable to convert its
 * values.  Keys are compared as escape_json() writes them.  A value that is
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

bool
cqrs_parked_has(const char *cqrs_id)
{
	Relation	rel = table_open(cqrs_objects_get(false)->parked,
								 AccessShareLock);
	int			column = SPI_fnumber(RelationGetDescr(rel), "cqrs_id");
	SnapshotData dirty;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	InitDirtySnapshot(dirty);
	scan = systable_beginscan(rel, InvalidOid, false, &dirty, 0, NULL);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		found = strcmp(TextDatumGetCString(heap_getattr(tuple, column,
														RelationGetDescr(rel),
														&isnull)),
					   cqrs_id) == 0;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
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
