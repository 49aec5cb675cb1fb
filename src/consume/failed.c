/*-------------------------------------------------------------------------
 *
 * failed.c
 *	  The rows of cqrs.failed: messages that could not be applied.
 *
 * Rows are read and written directly, whatever the rights of the role that a
 * message is applied with.  Users may delete rows meanwhile, so a row is
 * always looked up by its id, and a row that is gone is skipped.  Callers lock
 * a row before they write to it; the consumer without waiting for a user's
 * transaction.
 *
 * The index of instance_pk is a hash index: keys can be longer than a B-tree
 * takes.  Results are in the current memory context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/hash.h"
#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_collation.h"
#include "commands/sequence.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/objects.h"
#include "consume/failed.h"

/* Columns of cqrs.failed */
enum
{
	FAILED_ID = 1,
	FAILED_CQRS_ID,
	FAILED_INSTANCE_PK,
	FAILED_SIGNAL_TYPE,
	FAILED_BODY,
	FAILED_MESSAGE_ID,
	FAILED_DIRECT,
	FAILED_RECEIVED_AT,
	FAILED_FAILED_AT,
	FAILED_ATTEMPTS,
	FAILED_NEXT_TRY,
	FAILED_SQLSTATE,
	FAILED_ERROR,
	FAILED_NATTS = FAILED_ERROR
};

/* The most dead letters that are removed at a time. */
#define PURGE_ROWS	1000

static CqrsFailed *from_tuple(Relation rel, HeapTuple tuple, bool with_body);
static void set_state(const CqrsFailedState *state, Datum *values,
					  bool *nulls);
static void change(int64 id, Datum *values, bool *nulls, bool *replaces);
static bool lock_free(Relation rel, TupleTableSlot *slot, ItemPointer tid);
static bool lock_found(List *found);
static bool lock_latest(Relation rel, TupleTableSlot *slot, CqrsFailed *failed);
static SysScanDesc begin_by_id(Relation rel, int64 id, ScanKeyData *key);
static int	compare_id(const ListCell *a, const ListCell *b);

bool
cqrs_failed_any(void)
{
	Relation	rel = table_open(cqrs_objects_get(false)->failed,
								 AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel,
										  cqrs_objects_get(false)->failed_by_id,
										  true, NULL, 0, NULL);
	bool		any = HeapTupleIsValid(systable_getnext(scan));

	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return any;
}

List *
cqrs_failed_find(const char *cqrs_id, const char *instance_pk, int64 below)
{
	Relation	rel = table_open(cqrs_objects_get(false)->failed,
								 AccessShareLock);
	Relation	index = index_open(cqrs_objects_get(false)->failed_by_row,
								   AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	List	   *found = NIL;
	ScanKeyData key;
	IndexScanDesc scan;

	/* A scan of a system catalog refuses an index that has hashes only. */
	ScanKeyEntryInitialize(&key, 0, 1, HTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ,
						   CStringGetTextDatum(instance_pk));
	scan = cqrs_begin_index_scan(rel, index, 1);
	index_rescan(scan, &key, 1, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		CqrsFailed *failed =
		from_tuple(rel, ExecFetchSlotHeapTuple(slot, false, NULL), false);

		if (failed->id < below && failed->cqrs_id != NULL &&
			strcmp(failed->cqrs_id, cqrs_id) == 0 &&
			strcmp(failed->instance_pk, instance_pk) == 0)
			found = lappend(found, failed);
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	list_sort(found, compare_id);
	return found;
}

CqrsFailed *
cqrs_failed_read(int64 id)
{
	Relation	rel = table_open(cqrs_objects_get(false)->failed,
								 AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan = begin_by_id(rel, id, &key);
	HeapTuple	tuple = systable_getnext(scan);
	CqrsFailed *failed = HeapTupleIsValid(tuple) ?
	from_tuple(rel, tuple, true) : NULL;

	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return failed;
}

bool
cqrs_failed_message(int64 id, CqrsIncoming *message)
{
	CqrsFailed *failed = cqrs_failed_read(id);

	memset(message, 0, sizeof(*message));
	if (failed == NULL)
		return false;
	message->body = failed->body;
	message->length = failed->length;
	message->message_id = failed->message_id;
	message->direct = failed->direct;
	return cqrs_envelope_read(message) == NULL;
}

CqrsFailedLock
cqrs_failed_lock(int64 id)
{
	Relation	rel = table_open(cqrs_objects_get(false)->failed,
								 RowExclusiveLock);
	ScanKeyData key;
	SysScanDesc scan = begin_by_id(rel, id, &key);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	HeapTuple	tuple = systable_getnext(scan);
	CqrsFailedLock result = CQRS_FAILED_GONE;

	if (HeapTupleIsValid(tuple))
		result = lock_free(rel, slot, &tuple->t_self) ? CQRS_FAILED_LOCKED :
			CQRS_FAILED_BUSY;
	systable_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, RowExclusiveLock);
	return result;
}

List *
cqrs_failed_lock_all(const char *cqrs_id, const char *instance_pk)
{
	List	   *found;
	bool		locked;

	/*
	 * After a wait another row may have taken the place of a row that was
	 * found: then the rows are looked for again.
	 */
	do
	{
		CHECK_FOR_INTERRUPTS();
		PushActiveSnapshot(GetTransactionSnapshot());
		found = cqrs_failed_find(cqrs_id, instance_pk, PG_INT64_MAX);
		locked = found == NIL || lock_found(found);
		PopActiveSnapshot();
	} while (!locked);
	return found;
}

/* Lock rows and read their bodies; false if they have to be looked for again. */
static bool
lock_found(List *found)
{
	Relation	rel = table_open(cqrs_objects_get(false)->failed,
								 RowExclusiveLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	bool		locked = true;
	ListCell   *lc;

	foreach(lc, found)
	{
		if (!lock_latest(rel, slot, lfirst(lc)))
			locked = false;
		else
			lfirst(lc) =
				from_tuple(rel, ExecFetchSlotHeapTuple(slot, false, NULL), true);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, RowExclusiveLock);
	return locked;
}

/*
 * Lock the latest version of a row; false if it is not the version that was
 * found.
 */
static bool
lock_latest(Relation rel, TupleTableSlot *slot, CqrsFailed *failed)
{
	uint8		flags = IsolationUsesXactSnapshot() ? 0 :
	TUPLE_LOCK_FLAG_FIND_LAST_VERSION;
	TM_FailureData failure;

	switch (table_tuple_lock(rel, &failed->tid, GetActiveSnapshot(), slot,
							 GetCurrentCommandId(true), LockTupleExclusive,
							 LockWaitBlock, flags, &failure))
	{
		case TM_Ok:
			return !failure.traversed;
		case TM_Updated:
		case TM_Deleted:
			if (IsolationUsesXactSnapshot())
				ereport(ERROR,
						(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						 errmsg("could not serialize access due to concurrent update")));
			return false;
		default:
			elog(ERROR, "unexpected result of locking a failed message");
	}
}

void
cqrs_failed_insert(const CqrsIncoming *message, const CqrsFailedState *state)
{
	const CqrsObjects *objects = cqrs_objects_get(false);
	Relation	rel = table_open(objects->failed, RowExclusiveLock);
	Datum		values[FAILED_NATTS] = {0};
	bool		nulls[FAILED_NATTS] = {false};
	bytea	   *body = palloc(message->length + VARHDRSZ);
	TimestampTz now = GetCurrentTimestamp();

	SET_VARSIZE(body, message->length + VARHDRSZ);
	memcpy(VARDATA(body), message->body, message->length);
	values[FAILED_ID - 1] = Int64GetDatum(nextval_internal(objects->failed_id,
														   false));
	nulls[FAILED_CQRS_ID - 1] = message->cqrs_id == NULL;
	if (message->cqrs_id != NULL)
		values[FAILED_CQRS_ID - 1] = CStringGetTextDatum(message->cqrs_id);
	nulls[FAILED_INSTANCE_PK - 1] = message->instance_pk == NULL;
	if (message->instance_pk != NULL)
		values[FAILED_INSTANCE_PK - 1] =
			CStringGetTextDatum(message->instance_pk);
	nulls[FAILED_SIGNAL_TYPE - 1] = message->signal == 0;
	values[FAILED_SIGNAL_TYPE - 1] = CharGetDatum((char) message->signal);
	values[FAILED_BODY - 1] = PointerGetDatum(body);
	nulls[FAILED_MESSAGE_ID - 1] = message->message_id == NULL;
	if (message->message_id != NULL)
		values[FAILED_MESSAGE_ID - 1] =
			CStringGetTextDatum(message->message_id);
	values[FAILED_DIRECT - 1] = BoolGetDatum(message->direct);
	values[FAILED_RECEIVED_AT - 1] = TimestampTzGetDatum(now);
	set_state(state, values, nulls);

	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values,
											nulls));
	table_close(rel, RowExclusiveLock);
	pfree(body);
	CommandCounterIncrement();
}

void
cqrs_failed_renew(int64 id)
{
	Datum		values[FAILED_NATTS] = {0};
	bool		nulls[FAILED_NATTS] = {false};
	bool		replaces[FAILED_NATTS] = {false};

	values[FAILED_ID - 1] =
		Int64GetDatum(nextval_internal(cqrs_objects_get(false)->failed_id,
									   false));
	replaces[FAILED_ID - 1] = true;
	change(id, values, nulls, replaces);
}

void
cqrs_failed_update(int64 id, const CqrsFailedState *state)
{
	Datum		values[FAILED_NATTS] = {0};
	bool		nulls[FAILED_NATTS] = {false};
	bool		replaces[FAILED_NATTS] = {false};

	set_state(state, values, nulls);
	for (int att = FAILED_FAILED_AT; att <= FAILED_ERROR; att++)
		replaces[att - 1] = true;
	change(id, values, nulls, replaces);
}

/* Change columns of a row, if it exists. */
static void
change(int64 id, Datum *values, bool *nulls, bool *replaces)
{
	Relation	rel = table_open(cqrs_objects_get(false)->failed,
								 RowExclusiveLock);
	ScanKeyData key;
	SysScanDesc scan = begin_by_id(rel, id, &key);
	HeapTuple	tuple = systable_getnext(scan);

	if (HeapTupleIsValid(tuple))
		CatalogTupleUpdate(rel, &tuple->t_self,
						   heap_modify_tuple(tuple, RelationGetDescr(rel),
											 values, nulls, replaces));
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
}

void
cqrs_failed_delete(int64 id)
{
	Relation	rel = table_open(cqrs_objects_get(false)->failed,
								 RowExclusiveLock);
	ScanKeyData key;
	SysScanDesc scan = begin_by_id(rel, id, &key);
	HeapTuple	tuple = systable_getnext(scan);

	if (HeapTupleIsValid(tuple))
		CatalogTupleDelete(rel, &tuple->t_self);
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
}

List *
cqrs_failed_due(int most, Size most_bytes)
{
	Relation	rel = table_open(cqrs_objects_get(false)->failed,
								 AccessShareLock);
	Relation	index = index_open(cqrs_objects_get(false)->failed_by_time,
								   AccessShareLock);
	List	   *due = NIL;
	Size		bytes = 0;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, FAILED_NEXT_TRY, BTLessEqualStrategyNumber,
				F_TIMESTAMPTZ_LE, TimestampTzGetDatum(GetCurrentTimestamp()));
	scan = systable_beginscan_ordered(rel, index, NULL, 1, &key);
	while (list_length(due) < most &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan,
															 ForwardScanDirection)))
	{
		CqrsFailed *failed = from_tuple(rel, tuple, false);

		bytes += failed->length;
		if (due != NIL && bytes > most_bytes)
			break;
		due = lappend(due, from_tuple(rel, tuple, true));
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	list_sort(due, compare_id);
	return due;
}

TimestampTz
cqrs_failed_next_due(void)
{
	Relation	rel = table_open(cqrs_objects_get(false)->failed,
								 AccessShareLock);
	Relation	index = index_open(cqrs_objects_get(false)->failed_by_time,
								   AccessShareLock);
	TimestampTz next = 0;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	/* Nulls are last; a condition keeps them out. */
	ScanKeyInit(&key, FAILED_NEXT_TRY, BTGreaterEqualStrategyNumber,
				F_TIMESTAMPTZ_GE, TimestampTzGetDatum(DT_NOBEGIN));
	scan = systable_beginscan_ordered(rel, index, NULL, 1, &key);
	tuple = systable_getnext_ordered(scan, ForwardScanDirection);
	if (HeapTupleIsValid(tuple))
		next = from_tuple(rel, tuple, false)->next_try;
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return next;
}

int64
cqrs_failed_count_waiting(void)
{
	Relation	rel = table_open(cqrs_objects_get(false)->failed,
								 AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0,
										  NULL);
	int64		count = 0;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (!heap_attisnull(tuple, FAILED_NEXT_TRY, RelationGetDescr(rel)))
			count++;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return count;
}

bool
cqrs_failed_purge(TimestampTz before)
{
	Relation	rel = table_open(cqrs_objects_get(false)->failed,
								 RowExclusiveLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0,
										  NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	int			purged = 0;
	HeapTuple	tuple;

	while (purged < PURGE_ROWS &&
		   HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		failed_at = heap_getattr(tuple, FAILED_FAILED_AT,
											 RelationGetDescr(rel), &isnull);

		if (!heap_attisnull(tuple, FAILED_NEXT_TRY, RelationGetDescr(rel)) ||
			DatumGetTimestampTz(failed_at) >= before ||
			!lock_free(rel, slot, &tuple->t_self))
			continue;
		CatalogTupleDelete(rel, &tuple->t_self);
		purged++;
	}
	systable_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, RowExclusiveLock);
	return purged == PURGE_ROWS;
}

/* Lock a row, unless another transaction is changing it or has done so. */
static bool
lock_free(Relation rel, TupleTableSlot *slot, ItemPointer tid)
{
	TM_FailureData failure;

	return table_tuple_lock(rel, tid, GetActiveSnapshot(), slot,
							GetCurrentCommandId(true), LockTupleExclusive,
							LockWaitSkip, 0, &failure) == TM_Ok;
}

/*
 * A row of cqrs.failed, in the current context.  Without "with_body", "body"
 * and "error" are NULL.
 */
static CqrsFailed *
from_tuple(Relation rel, HeapTuple tuple, bool with_body)
{
	CqrsFailed *failed = palloc0(sizeof(CqrsFailed));
	Datum		values[FAILED_NATTS];
	bool		nulls[FAILED_NATTS];

	heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
	failed->tid = tuple->t_self;
	failed->id = DatumGetInt64(values[FAILED_ID - 1]);
	if (!nulls[FAILED_CQRS_ID - 1])
		failed->cqrs_id = TextDatumGetCString(values[FAILED_CQRS_ID - 1]);
	if (!nulls[FAILED_INSTANCE_PK - 1])
		failed->instance_pk = TextDatumGetCString(values[FAILED_INSTANCE_PK - 1]);
	if (!nulls[FAILED_SIGNAL_TYPE - 1])
		failed->signal = DatumGetChar(values[FAILED_SIGNAL_TYPE - 1]);
	if (!nulls[FAILED_MESSAGE_ID - 1])
		failed->message_id = TextDatumGetCString(values[FAILED_MESSAGE_ID - 1]);
	failed->direct = DatumGetBool(values[FAILED_DIRECT - 1]);
	failed->received_at = DatumGetTimestampTz(values[FAILED_RECEIVED_AT - 1]);
	failed->attempts = DatumGetInt32(values[FAILED_ATTEMPTS - 1]);
	if (!nulls[FAILED_NEXT_TRY - 1])
	{
		/* A user may have set next_try to the value that means "none" here. */
		failed->next_try = DatumGetTimestampTz(values[FAILED_NEXT_TRY - 1]);
		if (failed->next_try == 0)
			failed->next_try = 1;
	}
	failed->length = toast_raw_datum_size(values[FAILED_BODY - 1]) - VARHDRSZ;
	if (with_body)
	{
		bytea	   *body = DatumGetByteaPP(values[FAILED_BODY - 1]);

		failed->length = VARSIZE_ANY_EXHDR(body);
		failed->body = palloc(failed->length + 1);
		memcpy(failed->body, VARDATA_ANY(body), failed->length);
		failed->body[failed->length] = '\0';
		failed->error = TextDatumGetCString(values[FAILED_ERROR - 1]);
	}
	return failed;
}

/*
 * Set the columns of a state.  "attempts" is the new number; the time is now.
 */
static void
set_state(const CqrsFailedState *state, Datum *values, bool *nulls)
{
	values[FAILED_FAILED_AT - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[FAILED_ATTEMPTS - 1] = Int32GetDatum(state->attempts);
	nulls[FAILED_NEXT_TRY - 1] = state->next_try == 0;
	values[FAILED_NEXT_TRY - 1] = TimestampTzGetDatum(state->next_try);
	nulls[FAILED_SQLSTATE - 1] = state->sqlstate == NULL;
	if (state->sqlstate != NULL)
		values[FAILED_SQLSTATE - 1] = CStringGetTextDatum(state->sqlstate);
	values[FAILED_ERROR - 1] = CStringGetTextDatum(state->error);
}

/* A scan for one row; "key" has to live as long. */
static SysScanDesc
begin_by_id(Relation rel, int64 id, ScanKeyData *key)
{
	ScanKeyInit(key, FAILED_ID, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(id));
	return systable_beginscan(rel, cqrs_objects_get(false)->failed_by_id,
							  true, NULL, 1, key);
}

static int
compare_id(const ListCell *a, const ListCell *b)
{
	int64		x = ((CqrsFailed *) lfirst(a))->id;
	int64		y = ((CqrsFailed *) lfirst(b))->id;

	return x < y ? -1 : x > y;
}
