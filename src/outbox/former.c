/*-------------------------------------------------------------------------
 *
 * former.c
 *	  Masters that are gone, and whose their messages are.
 *
 * Pending and parked messages belong to a master by its name, and outlast it.
 * Whoever has the name next may park them, which keeps them from being sent, and
 * may have them made again by functions of its own, which shows the rows that are
 * kept with them.  So when a master is removed, with its table or without, the
 * owner of the table is noted in cqrs.former.  As long as messages of the name are
 * pending or parked, the name is free only for those who have the privileges of
 * that owner, and so could have had the messages anyway (schema/register.c).
 *
 * That is a rule about names and not about tables: the owner may drop the table
 * and register another one.  If a table gets another owner, its masters and their
 * messages go with it.
 *
 * Neither the outbox nor cqrs.parked is part of a dump, and so cqrs.former is not
 * either.  pg_upgrade and copies of the cluster keep all three, and the OIDs of
 * roles.  If the role is dropped, its OID is left, whose privileges only
 * superusers have.
 *
 * Rows are written directly, as those of cqrs.master.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_collation.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "base/objects.h"
#include "outbox/former.h"
#include "outbox/outbox.h"
#include "outbox/parked.h"
#include "outbox/scan.h"
#include "outbox/skipped.h"

/* Columns of cqrs.former */
enum
{
	FORMER_CQRS_ID = 1,
	FORMER_OWNER,
	FORMER_NATTS = FORMER_OWNER
};

static HeapTuple find(Relation former, const char *cqrs_id);
static bool is_pending(const char *cqrs_id);

void
cqrs_former_note(const char *cqrs_id, Oid owner)
{
	Relation	former = table_open(cqrs_objects_get(false)->former,
									RowExclusiveLock);
	HeapTuple	old = find(former, cqrs_id);
	Datum		values[FORMER_NATTS];
	bool		nulls[FORMER_NATTS] = {false};
	HeapTuple	tuple;

	values[FORMER_CQRS_ID - 1] = CStringGetTextDatum(cqrs_id);
	values[FORMER_OWNER - 1] = ObjectIdGetDatum(owner);
	tuple = heap_form_tuple(RelationGetDescr(former), values, nulls);
	if (HeapTupleIsValid(old))
		CatalogTupleUpdate(former, &old->t_self, tuple);
	else
		CatalogTupleInsert(former, tuple);
	table_close(former, RowExclusiveLock);
}

Oid
cqrs_former_forget(const char *cqrs_id)
{
	Relation	former = table_open(cqrs_objects_get(false)->former,
									RowExclusiveLock);
	HeapTuple	tuple = find(former, cqrs_id);
	Oid			owner = InvalidOid;
	bool		isnull;

	if (HeapTupleIsValid(tuple))
	{
		owner = DatumGetObjectId(heap_getattr(tuple, FORMER_OWNER,
											  RelationGetDescr(former),
											  &isnull));
		CatalogTupleDelete(former, &tuple->t_self);
	}
	table_close(former, RowExclusiveLock);
	return owner;
}

/* A copy of the row with a cqrs_id, or NULL. */
static HeapTuple
find(Relation former, const char *cqrs_id)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyEntryInitialize(&key, 0, FORMER_CQRS_ID, BTEqualStrategyNumber,
						   InvalidOid, C_COLLATION_OID, F_TEXTEQ,
						   CStringGetTextDatum(cqrs_id));
	/* The table is locked. */
	scan = systable_beginscan(former, cqrs_objects_get(false)->former_by_id,
							  true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	return tuple;
}

/*
 * The outbox is read first: a message that is parked meanwhile is found in one of
 * the two.
 */
CqrsRemains
cqrs_former_remains(const char *cqrs_id)
{
	if (is_pending(cqrs_id))
		return CQRS_REMAINS_PENDING;
	return cqrs_parked_has(cqrs_id) ? CQRS_REMAINS_PARKED : CQRS_REMAINS_NONE;
}

/* Whether a message is in the outbox, and not skipped. */
static bool
is_pending(const char *cqrs_id)
{
	int64		watermark = cqrs_outbox_watermark();
	int64	   *ids;
	int			nskipped = cqrs_skipped_above(watermark, &ids);
	int64	   *skipped = palloc_extended(Max(nskipped, 1) * sizeof(int64),
										  MCXT_ALLOC_HUGE);
	CqrsOutboxScan *scan;
	CqrsMessage message;
	bool		found = false;

	/* An error would not free what is in TopMemoryContext. */
	memcpy(skipped, ids, nskipped * sizeof(int64));
	pfree(ids);
	scan = cqrs_scan_begin_dirty(watermark + 1, PG_INT64_MAX);
	while (!found && cqrs_scan_next(scan, &message))
	{
		CHECK_FOR_INTERRUPTS();
		found = strcmp(message.cqrs_id, cqrs_id) == 0 &&
			!cqrs_skipped_has(skipped, nskipped, message.id);
	}
	cqrs_scan_end(scan);
	pfree(skipped);
	return found;
}
