/*-------------------------------------------------------------------------
 *
 * initial_save.c
 *	  cqrs_is_initial_save: whether a transaction has saved a row only once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "fmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "master/locate.h"

PG_FUNCTION_INFO_V1(cqrs_is_initial_save);

static bool find_initial(Relation rel, const CqrsRelation *relation,
						 HeapTuple tuple, void *arg);
static bool was_own(Relation rel, const CqrsRelation *relation, ScanKey keys,
					HeapTuple successor);

/* cqrs_is_initial_save(row record) RETURNS boolean */
Datum
cqrs_is_initial_save(PG_FUNCTION_ARGS)
{
	HeapTupleData tuple;
	Oid			relid = cqrs_locate_record(PG_GETARG_HEAPTUPLEHEADER(0),
										   &tuple);
	Relation	rel = table_open(relid, AccessShareLock);
	bool		initial = true;

	(void) cqrs_locate_row(rel, &tuple, true, find_initial, &initial);

	table_close(rel, AccessShareLock);
	PG_RETURN_BOOL(initial);
}

/*
 * Whether the current transaction has saved the row with the key of "tuple" at
 * most once.  A row that a query returns has no xmin, so the row is looked up,
 * with all changes of the transaction so far.  The result reveals nothing
 * about other transactions, so it needs no privileges.  Since the caller may
 * have none, no lock on the table is kept.
 */
static bool
find_initial(Relation rel, const CqrsRelation *relation, HeapTuple tuple,
			 void *arg)
{
	ScanKey		keys = cqrs_relation_key_scan(rel, relation, tuple);
	SysScanDesc scan;
	HeapTuple	found;
	bool	   *initial = arg;

	scan = systable_beginscan(rel, relation->key_index, true, SnapshotSelf,
							  relation->nkeys, keys);
	found = systable_getnext(scan);
	if (HeapTupleIsValid(found) &&
		TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(found->t_data)) &&
		(found->t_data->t_infomask & HEAP_UPDATED) != 0)
		*initial = !was_own(rel, relation, keys, found);
	systable_endscan(scan);
	return HeapTupleIsValid(found);
}

/*
 * Whether the current transaction has also made the version that "successor"
 * has replaced.  No version of the current transaction can have been pruned.
 * If the key has changed, no such version is found: for a consumer, the row
 * with that key is new.
 */
static bool
was_own(Relation rel, const CqrsRelation *relation, ScanKey keys,
		HeapTuple successor)
{
	ItemPointerData tid = successor->t_self;
	SysScanDesc scan = systable_beginscan(rel, relation->key_index, true,
										  SnapshotAny, relation->nkeys, keys);
	HeapTuple	found;
	bool		own = false;

	while (!own && HeapTupleIsValid(found = systable_getnext(scan)))
		own = !ItemPointerEquals(&found->t_self, &tid) &&
			ItemPointerEquals(&found->t_data->t_ctid, &tid) &&
			TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(found->t_data));
	systable_endscan(scan);
	return own;
}
