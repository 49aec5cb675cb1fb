/*-------------------------------------------------------------------------
 *
 * truncate.c
 *	  Messages of the rows that TRUNCATE removes.
 *
 * Masters get a DELETE for each row that was there before the transaction.
 * The messages are made at once, while the rows can still be read: TRUNCATE
 * has the ACCESS EXCLUSIVE lock, so no other transaction can add rows.  Rows
 * that the transaction has changed before are found by its notes, all others
 * by a scan.  Versions that the notes lead over are remembered, and the scan
 * skips them.  All notes of the table are marked as dealt with.
 *
 * Masters that ignore the TRUNCATE get the messages of earlier changes, as if
 * the transaction committed without it.
 *
 * Partitions have a trigger each.  Chunks of a hypertable have none: TRUNCATE
 * of a hypertable has locked and will empty them, and the hypertable's trigger
 * deals with all.
 *
 * As at a commit (resolve.c), DELETEs come first if keys have moved, and
 * memory of one row lives in a context that is reset for each row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/guc.h"
#include "capture/chain.h"
#include "capture/changeset.h"
#include "capture/truncate.h"
#include "compose/compose.h"
#include "master/relation.h"
#include "master/row.h"

typedef struct Truncation
{
	MemoryContext row_context;	/* reset for each row */
	CqrsComposer *composer;
	Relation	rel;
	CqrsRelation *relation;
	CqrsRow		before;
	CqrsRow		after;
	CqrsChain	chain;			/* of the current note */
	bool		deletes;		/* kinds of messages to make now */
	bool		saves;
} Truncation;

static void refuse_migration(Relation rel);
static bool truncate_table(Relation rel, CqrsRelation *relation);
static int64 compose_all(Relation rel, CqrsRelation *relation);
static void walk_notes(Truncation *truncation, bool deletes, bool saves);
static void scan_rows(Truncation *truncation);
static void compose_truncated(Truncation *truncation, const CqrsRow *first,
							  const CqrsRow *last);
static void compose_ignored(Truncation *truncation, CqrsNoteKind kind,
							CqrsFate fate);

bool
cqrs_truncate_rows(Relation rel)
{
	CqrsRelation *relation = cqrs_relation_get(RelationGetRelid(rel));
	bool		any = false;
	ListCell   *lc;

	/* A partitioned table holds no rows; its partitions have the trigger. */
	if (relation == NULL || !RELKIND_HAS_STORAGE(rel->rd_rel->relkind))
		return false;
	if (!relation->is_hypertable)
		return truncate_table(rel, relation);

	refuse_migration(rel);
	foreach(lc, find_all_inheritors(RelationGetRelid(rel), NoLock, NULL))
	{
		Relation	part = table_open(lfirst_oid(lc), AccessShareLock);

		/* A child of a chunk is none of the masters'. */
		relation = cqrs_relation_get(RelationGetRelid(part));
		if (relation != NULL)
			any |= truncate_table(part, relation);
		table_close(part, NoLock);
	}
	return any;
}

/*
 * A hypertable has no rows of its own, unless a master becomes one: its rows
 * are being moved to chunks, and each would be sent as deleted.
 */
static void
refuse_migration(Relation rel)
{
	TableScanDesc scan;
	bool		has_rows;

	PushActiveSnapshot(GetLatestSnapshot());
	scan = cqrs_begin_table_scan(rel, GetActiveSnapshot());
	has_rows = heap_getnext(scan, ForwardScanDirection) != NULL;
	table_endscan(scan);
	PopActiveSnapshot();
	if (has_rows)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot move the rows of table \"%s\" to chunks",
						RelationGetRelationName(rel)),
				 errdetail("The table is a master, and the TRUNCATE that ends the move would be sent as the deletion of each row."),
				 errhint("Use cqrs_unregister() before and cqrs_register() after the change, and cqrs_sync() to send the rows.")));
}

/* The same for one table, which has rows. */
static bool
truncate_table(Relation rel, CqrsRelation *relation)
{
	bool		any = cqrs_produce && compose_all(rel, relation) > 0;

	for (int i = cqrs_changeset_ntargets() - 1; i >= 0; i--)
	{
		if (cqrs_changeset_get_target(i)->relid == RelationGetRelid(rel))
			cqrs_changeset_note_done(i);
	}
	return any;
}

/* Make the messages of all rows; returns their number. */
static int64
compose_all(Relation rel, CqrsRelation *relation)
{
	MemoryContext context = AllocSetContextCreate(CurTransactionContext,
												  "cqrs truncate",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	Truncation *truncation = palloc0(sizeof(Truncation));
	int64		nmessages;

	/* TRUNCATE removes committed rows, visible to our snapshot or not. */
	PushActiveSnapshot(GetLatestSnapshot());
	truncation->row_context = AllocSetContextCreate(context, "cqrs row",
													ALLOCSET_DEFAULT_SIZES);
	truncation->rel = rel;
	truncation->relation = relation;
	truncation->composer = cqrs_compose_begin();
	cqrs_chain_init(&truncation->chain);
	cqrs_row_init(&truncation->before, rel);
	cqrs_row_init(&truncation->after, rel);
	MemoryContextSwitchTo(caller);
	cqrs_changeset_freeze();

	cqrs_compose_enter(truncation->composer, rel, relation);
	if (cqrs_changeset_keys_move())
	{
		walk_notes(truncation, true, false);
		walk_notes(truncation, false, true);
	}
	else
		walk_notes(truncation, true, true);
	scan_rows(truncation);
	cqrs_compose_leave(truncation->composer);

	cqrs_chain_release(&truncation->chain);
	nmessages = cqrs_compose_end(truncation->composer);
	cqrs_changeset_thaw();
	PopActiveSnapshot();
	MemoryContextDelete(context);
	return nmessages;
}

/*
 * Rows that this transaction has already changed.  A row that it has updated
 * or deleted gets its DELETE here; a row that it has inserted needs none.
 */
static void
walk_notes(Truncation *truncation, bool deletes, bool saves)
{
	Relation	rel = truncation->rel;
	CqrsWalk	walk;
	const CqrsNote *note;

	truncation->deletes = deletes;
	truncation->saves = saves;
	cqrs_chain_forget(&truncation->chain);
	cqrs_changeset_walk(&walk);
	while ((note = cqrs_changeset_next(&walk)) != NULL)
	{
		const CqrsTarget *target = cqrs_changeset_get_target(note->target);
		MemoryContext caller;
		ItemPointerData tid = note->tid;
		CqrsFate	fate;

		CHECK_FOR_INTERRUPTS();
		if (target->relid != RelationGetRelid(rel))
			continue;
		cqrs_changeset_check_file(target, rel);
		if (target->kind == CQRS_NOTE_RESENT ||
			cqrs_chain_seen(&truncation->chain, rel, &tid))
			continue;

		caller = MemoryContextSwitchTo(truncation->row_context);
		fate = cqrs_chain_follow(&truncation->chain, rel, &tid, true);
		cqrs_row_set(&truncation->before, rel, &truncation->chain.noted.tuple);
		cqrs_row_set(&truncation->after, rel, &truncation->chain.last->tuple);
		if (target->kind == CQRS_NOTE_TOUCHED && deletes)
			compose_truncated(truncation, &truncation->before, &truncation->after);
		compose_ignored(truncation, target->kind, fate);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(truncation->row_context);
	}
}

/* The rows that this transaction has not touched. */
static void
scan_rows(Truncation *truncation)
{
	Relation	rel = truncation->rel;
	TableScanDesc scan = cqrs_begin_table_scan(rel, GetActiveSnapshot());
	HeapTuple	tuple;

	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		MemoryContext caller;

		CHECK_FOR_INTERRUPTS();
		if (cqrs_chain_seen(&truncation->chain, rel, &tuple->t_self))
			continue;
		caller = MemoryContextSwitchTo(truncation->row_context);
		cqrs_row_set(&truncation->after, rel, tuple);
		compose_truncated(truncation, &truncation->after, &truncation->after);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(truncation->row_context);
	}
	table_endscan(scan);
}

/* The DELETE of a row, for each master with on_truncate "delete". */
static void
compose_truncated(Truncation *truncation, const CqrsRow *first,
				  const CqrsRow *last)
{
	ListCell   *lc;

	foreach(lc, truncation->relation->masters)
	{
		CqrsMaster *master = lfirst(lc);

		if (master->on_truncate == CQRS_TRUNCATE_DELETES)
			cqrs_compose_master_deleted(truncation->composer, master, first,
										last);
	}
}

/* The message of a change before the TRUNCATE, for masters that ignore it. */
static void
compose_ignored(Truncation *truncation, CqrsNoteKind kind, CqrsFate fate)
{
	bool		born = kind == CQRS_NOTE_BORN;
	ListCell   *lc;

	if (fate == CQRS_FATE_LIVE ? !born && cqrs_row_same(truncation->rel, truncation->relation,
														&truncation->before,
														&truncation->after) : born)
		return;
	foreach(lc, truncation->relation->masters)
	{
		CqrsMaster *master = lfirst(lc);
		bool		same = !born && cqrs_row_same_key(truncation->rel,
													  truncation->relation,
													  &truncation->before,
													  &truncation->after);

		if (master->on_truncate != CQRS_TRUNCATE_IGNORED)
			continue;
		if (!born && (fate != CQRS_FATE_LIVE || !same) &&
			truncation->deletes)
			cqrs_compose_master_deleted(truncation->composer, master,
										&truncation->before, &truncation->after);
		if (fate == CQRS_FATE_LIVE && truncation->saves)
			cqrs_compose_master_saved(truncation->composer, master,
									  same ? &truncation->before : NULL,
									  &truncation->after);
	}
}
