/*-------------------------------------------------------------------------
 *
 * capture.c
 *	  Triggers on the tables of masters: they note what a transaction changes.
 *
 * A row trigger does as little as it can.  BEFORE UPDATE bumps cqrs_revision
 * and cqrs_updated and notes the version that is about to be replaced.  AFTER
 * INSERT notes the new version, AFTER DELETE the deleted one.
 *
 * Only the first touch of a row by a transaction needs a note.  A trigger
 * recognises it by the xmin of the old version and needs no list of rows: a
 * version that the transaction itself has made has been noted, or succeeds a
 * version that has.  Some versions of the transaction's own have not been
 * noted: those made before the table became a master, before cqrs_flush() or
 * by a rewrite of the table.  A trigger recognises them by their command ids
 * (changeset.h, "tracked_from").
 *
 * At the end of the transaction the notes become messages (commit.c,
 * resolve.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "common/int.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/objects.h"
#include "capture/capture.h"
#include "capture/chain.h"
#include "capture/changeset.h"
#include "capture/commit.h"
#include "capture/generated.h"
#include "capture/resolve.h"
#include "capture/truncate.h"
#include "master/relation.h"

PG_FUNCTION_INFO_V1(cqrs_trigger_update);
PG_FUNCTION_INFO_V1(cqrs_trigger_insert_delete);
PG_FUNCTION_INFO_V1(cqrs_trigger_truncate);
PG_FUNCTION_INFO_V1(cqrs_trigger_discard);
PG_FUNCTION_INFO_V1(cqrs_flush);

static TriggerData *trigger_data(FunctionCallInfo fcinfo, TriggerEvent event,
								 TriggerEvent level);
static void check_truncate_allowed(Relation rel);
static bool any_produces(const CqrsRelation *relation);
static bool may_be_first_touch(TriggerData *data);
static uint16 touched_target(TriggerData *data);
static void note_touch(TriggerData *data, const CqrsRelation *relation,
					   HeapTuple old, HeapTuple new);
static bool later_trigger_exists(TriggerData *data);
static bool key_differs(Relation rel, const CqrsRelation *relation,
						HeapTuple a, HeapTuple b);
static bool raises_revision(TriggerData *data, const CqrsRelation *relation,
							bool first_touch);
static bool was_raised(TriggerData *data, const CqrsRelation *relation);
static void copy_header(HeapTupleHeader header, SysScanDesc scan,
						HeapTuple tuple);
static bool fields_differ(Relation rel, CqrsField *fields,
						  int nfields, HeapTuple a, HeapTuple b);
static HeapTuple bump(TriggerData *data, const CqrsRelation *relation,
					  bool raise);

void
cqrs_capture_begin_late(Relation rel)
{
	/* Later changes are recognised by their command ids. */
	CommandCounterIncrement();
	cqrs_changeset_note_done(cqrs_changeset_target(CQRS_NOTE_BORN, rel));
	cqrs_changeset_note_done(cqrs_changeset_target(CQRS_NOTE_TOUCHED, rel));
}

/* BEFORE UPDATE FOR EACH ROW */
Datum
cqrs_trigger_update(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, TRIGGER_EVENT_UPDATE,
									 TRIGGER_EVENT_BEFORE | TRIGGER_EVENT_ROW);
	CqrsRelation *relation = cqrs_relation_get(RelationGetRelid(data->tg_relation));
	bool		first_touch;
	bool		raise;

	if (relation == NULL)
		return PointerGetDatum(data->tg_newtuple);

	first_touch = may_be_first_touch(data);
	if (!first_touch)
		cqrs_changeset_begin_update(data->tg_relation,
									&data->tg_trigtuple->t_self);
	raise = raises_revision(data, relation, first_touch);
	if (first_touch && any_produces(relation))
		note_touch(data, relation, data->tg_trigtuple, data->tg_newtuple);
	else if (!first_touch &&
			 (key_differs(data->tg_relation, relation,
						  data->tg_trigtuple, data->tg_newtuple) ||
			  later_trigger_exists(data)))
	{
		uint16		target = cqrs_changeset_target(CQRS_NOTE_TOUCHED,
												   data->tg_relation);

		cqrs_changeset_get_target(target)->keys_move = true;
	}
	return PointerGetDatum(bump(data, relation, raise));
}

/* AFTER INSERT OR DELETE FOR EACH ROW */
Datum
cqrs_trigger_insert_delete(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, 0,
									 TRIGGER_EVENT_AFTER | TRIGGER_EVENT_ROW);
	CqrsRelation *relation = cqrs_relation_get(RelationGetRelid(data->tg_relation));

	if (relation == NULL || !any_produces(relation))
		return PointerGetDatum(NULL);

	if (TRIGGER_FIRED_BY_INSERT(data->tg_event))
	{
		uint16		target = cqrs_changeset_target(CQRS_NOTE_BORN,
												   data->tg_relation);

		if (cqrs_compat_relation_rewritten(data->tg_relation))
		{
			cqrs_changeset_get_target(target)->repeats = true;
			(void) touched_target(data);
		}
		cqrs_changeset_get_target(target)->noted_by =
			GetCurrentCommandId(false);
		cqrs_commit_schedule();
		cqrs_changeset_note(target, &data->tg_trigtuple->t_self);
	}
	else if (HeapTupleHeaderIndicatesMovedPartitions(data->tg_trigtuple->t_data))
	{
		/* BEFORE UPDATE has noted the version. */
	}
	else if (may_be_first_touch(data))
	{
		uint16		target = cqrs_changeset_target(CQRS_NOTE_BORN,
												   data->tg_relation);
		CommandId	inserted = cqrs_changeset_get_target(target)->noted_by;

		note_touch(data, relation, data->tg_trigtuple, NULL);
		/* A trigger may have given the deleted key to a new row. */
		if (inserted > HeapTupleHeaderGetCmax(data->tg_trigtuple->t_data))
			cqrs_changeset_get_target(touched_target(data))->keys_move = true;
	}
	return PointerGetDatum(NULL);
}

/* BEFORE TRUNCATE FOR EACH STATEMENT */
Datum
cqrs_trigger_truncate(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, TRIGGER_EVENT_TRUNCATE,
									 TRIGGER_EVENT_BEFORE);

	check_truncate_allowed(data->tg_relation);
	if (cqrs_truncate_rows(data->tg_relation))
		cqrs_commit_note_written();
	return PointerGetDatum(NULL);
}

/* Raise an error if a master of the table refuses TRUNCATE. */
static void
check_truncate_allowed(Relation rel)
{
	const CqrsRelation *relation = cqrs_relation_get(RelationGetRelid(rel));
	ListCell   *lc;

	if (relation == NULL)
		return;

	foreach(lc, relation->masters)
	{
		CqrsMaster *master = lfirst(lc);

		if (master->on_truncate == CQRS_TRUNCATE_REFUSED)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot truncate table \"%s\"",
							RelationGetRelationName(rel)),
					 errdetail("Master \"%s\" of the table has the option on_truncate \"refuse\".",
							   master->cqrs_id),
					 errhint("Use DELETE, or change the option with cqrs_alter().")));
	}
}

/*
 * BEFORE ... FOR EACH ROW, enabled with ENABLE REPLICA.  It discards what logical
 * replication does with tables that are a server's own: segments, for example,
 * are published by the server that they come from.
 *
 * Without an argument the table is in dumps, and only background workers count:
 * a dump may be restored with session_replication_role = replica, and pg_restore
 * --disable-triggers leaves the trigger enabled for everybody.  With an argument,
 * sessions of other replication programs count, too.
 */
Datum
cqrs_trigger_discard(PG_FUNCTION_ARGS)
{
	TriggerEvent event = TRIGGER_EVENT_INSERT;
	TriggerData *data;

	if (CALLED_AS_TRIGGER(fcinfo))
		event = ((TriggerData *) fcinfo->context)->tg_event &
			TRIGGER_EVENT_OPMASK;
	data = trigger_data(fcinfo, event,
						TRIGGER_EVENT_BEFORE | TRIGGER_EVENT_ROW);
	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA &&
		(MyBackendType == B_BG_WORKER || data->tg_trigger->tgnargs > 0))
		return PointerGetDatum(NULL);
	return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(event) ?
						   data->tg_newtuple : data->tg_trigtuple);
}

/* cqrs_flush() RETURNS bigint: the number of messages. */
Datum
cqrs_flush(PG_FUNCTION_ARGS)
{
	int64		nmessages;

	/* Hooks run in a transaction that is read-only, and must not write. */
	PreventCommandIfReadOnly("cqrs_flush()");
	nmessages = cqrs_resolve_flush();
	if (nmessages > 0)
		cqrs_commit_note_written();
	PG_RETURN_INT64(nmessages);
}

/* Raise an error unless a function is called as its kind of trigger. */
static TriggerData *
trigger_data(FunctionCallInfo fcinfo, TriggerEvent event, TriggerEvent level)
{
	TriggerData *data = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		(data->tg_event & (TRIGGER_EVENT_TIMINGMASK | TRIGGER_EVENT_ROW)) != level ||
		(event != 0 && (data->tg_event & TRIGGER_EVENT_OPMASK) != event) ||
		(event == 0 && TRIGGER_FIRED_BY_UPDATE(data->tg_event)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function %s can only be called by the triggers that cqrs_register() creates",
						format_procedure(fcinfo->flinfo->fn_oid)),
				 errhint("Use cqrs_register() to create the triggers of a master.")));

	/*
	 * Where the function is, the extension is: if it is not found, nothing
	 * may be missed.
	 */
	(void) cqrs_objects_get(false);
	return data;
}

/* Whether a master of the table has the option "produce". */
static bool
any_produces(const CqrsRelation *relation)
{
	ListCell   *lc;

	foreach(lc, relation->masters)
	{
		if (((CqrsMaster *) lfirst(lc))->produce)
			return true;
	}
	return false;
}

/*
 * Whether the old version may not have been noted.  If another transaction
 * made it, it has not.  If this transaction made it, the command that did so
 * decides (changeset.h, "tracked_from").
 */
static bool
may_be_first_touch(TriggerData *data)
{
	if (!TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(data->tg_trigtuple->t_data)))
		return true;
	return HeapTupleHeaderGetCmin(data->tg_trigtuple->t_data) <
		cqrs_changeset_get_target(touched_target(data))->tracked_from;
}

/*
 * The target for touched rows.  If this transaction has made the table's file,
 * the rewrite made all versions that are older than the first command that a
 * trigger fires for.
 */
static uint16
touched_target(TriggerData *data)
{
	uint16		target = cqrs_changeset_target(CQRS_NOTE_TOUCHED,
											   data->tg_relation);

	if (!cqrs_changeset_get_target(target)->is_tracked)
		cqrs_changeset_begin(target,
							 cqrs_compat_relation_rewritten(data->tg_relation) ?
							 GetActiveSnapshot()->curcid : FirstCommandId);
	return target;
}

/*
 * Whether an update raises the revision.  The first update of a row in the
 * transaction does.  If all masters skip updates that leave their fields as
 * they are, the first update that changes one of their fields does instead.
 */
static bool
raises_revision(TriggerData *data, const CqrsRelation *relation,
				bool first_touch)
{
	uint16		target;
	ListCell   *lc;

	foreach(lc, relation->masters)
	{
		CqrsMaster *master = lfirst(lc);

		if (!master->skip_unchanged)
			return first_touch;
	}

	target = cqrs_changeset_target(CQRS_NOTE_TOUCHED, data->tg_relation);
	foreach(lc, relation->masters)
	{
		CqrsMaster *master = lfirst(lc);

		if (later_trigger_exists(data) ||
			fields_differ(data->tg_relation, master->fields, master->nfields,
						  data->tg_trigtuple, data->tg_newtuple))
			return first_touch ||
				(cqrs_changeset_get_target(target)->skipped &&
				 !was_raised(data, relation));
	}
	cqrs_changeset_get_target(target)->skipped = true;
	return false;
}

/*
 * Whether this transaction has raised the revision of a row that it has
 * touched, since cqrs_flush() if that was called.  The revision is compared
 * with the revisions of the versions that the transaction found, which the
 * index of the primary key still leads to.  If there is no such version, the
 * transaction has inserted the row.
 */
static bool
was_raised(TriggerData *data, const CqrsRelation *relation)
{
	Relation	rel = data->tg_relation;
	TupleDesc	desc = RelationGetDescr(rel);
	ScanKeyData *keys = cqrs_relation_key_scan(rel, relation,
											   data->tg_trigtuple);
	SysScanDesc scan = systable_beginscan(rel, relation->key_index, true,
										  SnapshotAny, relation->nkeys, keys);
	int32		revision;
	bool		isnull;
	CommandId	since = cqrs_changeset_get_target(touched_target(data))->tracked_from;
	bool		raised = true;
	HeapTuple	tuple;

	revision = DatumGetInt32(heap_getattr(data->tg_trigtuple,
										  relation->revision, desc, &isnull));
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		HeapTupleHeaderData header;

		copy_header(&header, scan, tuple);
		if (cqrs_chain_updated_by_us(&header) &&
			(!TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(&header)) ||
			 HeapTupleHeaderGetCmin(&header) < since))
			raised &= revision > DatumGetInt32(heap_getattr(tuple,
															relation->revision,
															desc, &isnull));
	}
	systable_endscan(scan);
	return raised;
}

/*
 * Copy the header of the version that a scan has returned, under the buffer's
 * lock: other transactions may be locking the row.
 */
static void
copy_header(HeapTupleHeader header, SysScanDesc scan, HeapTuple tuple)
{
	Buffer		buffer = ((BufferHeapTupleTableSlot *) scan->slot)->buffer;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	memcpy(header, tuple->t_data, SizeofHeapTupleHeader);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
}

/* Note "old", about to become "new", or to be deleted if "new" is NULL. */
static void
note_touch(TriggerData *data, const CqrsRelation *relation, HeapTuple old,
		   HeapTuple new)
{
	Relation	rel = data->tg_relation;
	uint16		index = touched_target(data);
	bool		keys_move;
	bool		may_return = new != NULL && later_trigger_exists(data);
	bool		repeats = may_return;

	keys_move = may_return || relation->key_deferrable ||
		(new != NULL && !cqrs_changeset_get_target(index)->keys_move &&
		 key_differs(rel, relation, old, new));

	/*
	 * The version may be noted again when a later trigger cancels the update,
	 * after a rewrite, and when COPY FREEZE has hidden that the row is new.
	 */
	if (cqrs_compat_relation_rewritten(rel) ||
		rel->rd_createSubid != InvalidSubTransactionId)
	{
		uint16		born = cqrs_changeset_target(CQRS_NOTE_BORN, rel);

		cqrs_changeset_get_target(born)->repeats = true;
		repeats = true;
	}
	/* A function of a generated column may have made targets. */
	cqrs_changeset_get_target(index)->keys_move |= keys_move;
	cqrs_changeset_get_target(index)->repeats |= repeats;
	cqrs_commit_schedule();
	cqrs_changeset_note(index, &old->t_self);
}

/* Whether another BEFORE UPDATE trigger fires after this one. */
static bool
later_trigger_exists(TriggerData *data)
{
	TriggerDesc *triggers = data->tg_relation->trigdesc;

	for (int i = triggers->numtriggers - 1; i >= 0; i--)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (trigger->tgoid == data->tg_trigger->tgoid)
			return false;
		if (TRIGGER_TYPE_MATCHES(trigger->tgtype, TRIGGER_TYPE_ROW,
								 TRIGGER_TYPE_BEFORE, TRIGGER_TYPE_UPDATE))
			return true;
	}
	return false;
}

static bool
key_differs(Relation rel, const CqrsRelation *relation, HeapTuple a,
			HeapTuple b)
{
	return fields_differ(rel, relation->keys, relation->nkeys, a, b);
}

/*
 * Whether a row and its next version differ in any of some fields, other than
 * cqrs_revision and cqrs_updated.
 */
static bool
fields_differ(Relation rel, CqrsField *fields, int nfields,
			  HeapTuple a, HeapTuple b)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < nfields; i++)
	{
		AttrNumber	attnum = fields[i].attnum;
		Form_pg_attribute att = TupleDescAttr(desc, attnum - 1);
		bool		a_null;
		bool		b_null;
		Datum		a_value = heap_getattr(a, attnum, desc, &a_null);
		Datum		b_value = heap_getattr(b, attnum, desc, &b_null);

		if (fields[i].ours)
			continue;
		/* PostgreSQL computes the column after this trigger. */
		if (att->attgenerated != '\0')
		{
			if (cqrs_generated_differs(rel, fields, &fields[i], a, b))
				return true;
			continue;
		}
		if (a_null != b_null ||
			(!a_null &&
			 !datum_image_eq(a_value, b_value, att->attbyval, att->attlen)))
			return true;
	}
	return false;
}

/*
 * The new version with its revision and time of change.  With "raise" the
 * revision grows by one.  It never falls.  If an application raises the
 * revision by itself, as django-cqrs does, its revision is kept.
 */
static HeapTuple
bump(TriggerData *data, const CqrsRelation *relation, bool raise)
{
	int			columns[2] = {relation->revision, relation->updated};
	Datum		values[2];
	bool		nulls[2] = {false, false};
	bool		isnull;
	int32		old_revision;
	int32		new_revision;
	TimestampTz old_updated;
	TimestampTz new_updated;
	TimestampTz now;

	old_revision = DatumGetInt32(slot_getattr(data->tg_trigslot,
											  relation->revision, &isnull));
	new_revision = DatumGetInt32(slot_getattr(data->tg_newslot,
											  relation->revision, &isnull));
	if (isnull || new_revision < old_revision)
		new_revision = old_revision;
	else if (new_revision > old_revision)
		raise = false;
	else if (!raise)
		return data->tg_newtuple;

	if (raise && pg_add_s32_overflow(new_revision, 1, &new_revision))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("cqrs_revision of a row in table \"%s\" is out of range",
						RelationGetRelationName(data->tg_relation))));

	old_updated = DatumGetTimestampTz(slot_getattr(data->tg_trigslot,
												   relation->updated, &isnull));
	new_updated = DatumGetTimestampTz(slot_getattr(data->tg_newslot,
												   relation->updated, &isnull));
	now = GetCurrentTimestamp();
	if (isnull || new_updated <= old_updated)
		new_updated = now;

	values[0] = Int32GetDatum(new_revision);
	values[1] = TimestampTzGetDatum(new_updated);
	return heap_modify_tuple_by_cols(data->tg_newtuple,
									 RelationGetDescr(data->tg_relation), 2,
									 columns, values, nulls);
}
