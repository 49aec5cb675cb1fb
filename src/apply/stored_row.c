/*-------------------------------------------------------------------------
 *
 * stored_row.c
 *	  The row of a message: found, locked and written.
 *
 * The parts of the executor that apply the changes of logical replication
 * write the row: row triggers, constraints and generated columns work;
 * statement triggers and rules do not.
 *
 * A row is found by an MVCC snapshot, then locked in its latest version.  (A
 * dirty snapshot, as logical replication has it, can miss a row that is being
 * updated.)  After a wait the row may be gone or have another key.  Then the
 * row is looked for again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/itemptr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "apply/stored_row.h"

static bool next_row(CqrsLeaf *leaf, int nkeys);
static bool lock_row(CqrsLeaf *leaf, LockTupleMode mode, bool *again);
static bool has_key(CqrsLeaf *leaf);
static AttrNumber attnum_of(CqrsLeaf *leaf, AttrNumber attnum);

bool
cqrs_stored_row_find(CqrsLeaf *leaf, const Datum *keys, LockTupleMode mode)
{
	int			nkeys = leaf->scan->numberOfKeys;
	bool		again = false;

	for (int i = 0; i < nkeys; i++)
		leaf->keys[i].sk_argument = keys[i];
	do
	{
		if (again)
		{
			CHECK_FOR_INTERRUPTS();
			PopActiveSnapshot();
			PushActiveSnapshot(GetTransactionSnapshot());
		}
		again = false;
		leaf->scan->xs_snapshot = GetActiveSnapshot();
		if (!next_row(leaf, nkeys))
			return false;
	} while (!lock_row(leaf, mode, &again));
	return true;
}

/*
 * Find the row of leaf->keys.  The index may allocate memory that it keeps
 * until the end of the scan, as a B-tree does for entries of dead rows.
 */
static bool
next_row(CqrsLeaf *leaf, int nkeys)
{
	MemoryContext caller =
	MemoryContextSwitchTo(GetMemoryChunkContext(leaf->scan));
	bool		found;

	index_rescan(leaf->scan, leaf->keys, nkeys, NULL, 0);
	found = index_getnext_slot(leaf->scan, ForwardScanDirection, leaf->old);
	MemoryContextSwitchTo(caller);
	return found;
}

/*
 * Lock the row in leaf->old.  Sets *again if the row has to be looked for
 * again.
 */
static bool
lock_row(CqrsLeaf *leaf, LockTupleMode mode, bool *again)
{
	uint8		flags = IsolationUsesXactSnapshot() ? 0 :
	TUPLE_LOCK_FLAG_FIND_LAST_VERSION;
	ItemPointerData tid = leaf->old->tts_tid;
	TM_FailureData failure;
	TM_Result	result;

	result = table_tuple_lock(leaf->info->ri_RelationDesc, &tid,
							  GetActiveSnapshot(), leaf->old,
							  GetCurrentCommandId(true), mode, LockWaitBlock,
							  flags, &failure);
	switch (result)
	{
		case TM_Ok:
			if (!failure.traversed || has_key(leaf))
				return true;
			break;
		case TM_Updated:
		case TM_Deleted:
			break;
		default:
			elog(ERROR, "unexpected result of locking a row: %d", result);
	}
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update")));
	*again = true;
	return false;
}

/* Whether the row in leaf->old has the key that is looked for. */
static bool
has_key(CqrsLeaf *leaf)
{
	for (int i = 0; i < leaf->scan->numberOfKeys; i++)
	{
		ScanKey		key = &leaf->keys[i];
		bool		isnull;
		Datum		value = slot_getattr(leaf->old,
										 leaf->index->rd_index->indkey.values[i],
										 &isnull);

		if (isnull || !DatumGetBool(FunctionCall2Coll(&key->sk_func,
													  key->sk_collation, value,
													  key->sk_argument)))
			return false;
	}
	return true;
}

Datum
cqrs_stored_row_get_old(CqrsLeaf *leaf, AttrNumber attnum, bool *isnull)
{
	return slot_getattr(leaf->old, attnum_of(leaf, attnum), isnull);
}

void
cqrs_stored_row_begin_new(CqrsLeaf *leaf)
{
	ExecClearTuple(leaf->new);
	memset(leaf->new->tts_isnull, true,
		   leaf->new->tts_tupleDescriptor->natts * sizeof(bool));
}

void
cqrs_stored_row_begin_update(CqrsLeaf *leaf)
{
	int			natts = leaf->new->tts_tupleDescriptor->natts;

	slot_getallattrs(leaf->old);
	ExecClearTuple(leaf->new);
	memcpy(leaf->new->tts_values, leaf->old->tts_values, natts * sizeof(Datum));
	memcpy(leaf->new->tts_isnull, leaf->old->tts_isnull, natts * sizeof(bool));
}

void
cqrs_stored_row_set(CqrsLeaf *leaf, AttrNumber attnum, Datum value, bool isnull)
{
	AttrNumber	own = attnum_of(leaf, attnum);

	leaf->new->tts_values[own - 1] = value;
	leaf->new->tts_isnull[own - 1] = isnull;
}

/* The number of a column of the replica's table in the leaf. */
static AttrNumber
attnum_of(CqrsLeaf *leaf, AttrNumber attnum)
{
	return leaf->attnums == NULL ? attnum : leaf->attnums[attnum - 1];
}

void
cqrs_stored_row_insert(CqrsTable *table, CqrsLeaf *leaf)
{
	ExecStoreVirtualTuple(leaf->new);
	AfterTriggerBeginQuery();
	ExecSimpleRelationInsert(leaf->info, table->estate, leaf->new);
	AfterTriggerEndQuery(table->estate);
}

void
cqrs_stored_row_update(CqrsTable *table, CqrsLeaf *leaf)
{
	ExecStoreVirtualTuple(leaf->new);
	EvalPlanQualSetSlot(&table->epq, leaf->new);
	AfterTriggerBeginQuery();
	ExecSimpleRelationUpdate(leaf->info, table->estate, &table->epq, leaf->old,
							 leaf->new);
	AfterTriggerEndQuery(table->estate);
}

void
cqrs_stored_row_delete(CqrsTable *table, CqrsLeaf *leaf)
{
	EvalPlanQualSetSlot(&table->epq, leaf->old);
	AfterTriggerBeginQuery();
	ExecSimpleRelationDelete(leaf->info, table->estate, &table->epq,
							 leaf->old);
	AfterTriggerEndQuery(table->estate);
}
