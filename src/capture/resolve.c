/*-------------------------------------------------------------------------
 *
 * resolve.c
 *	  From what a transaction has touched to its messages.
 *
 * Each note is the place of a version of a row.  From there the update chain
 * leads to the version that is live now, over the versions that this
 * transaction has made and not rolled back (chain.c):
 *
 *	  noted as		chain ends at				message
 *	  ------------	--------------------------	-----------------------------
 *	  born			a live version				SAVE, new
 *	  born			a deleted or moved version	none
 *	  touched		the noted version, live		none: the change was undone
 *	  touched		a later version, live		SAVE; with another key: DELETE
 *												of the old one, SAVE of the new
 *	  touched		a deleted version			DELETE
 *	  touched		a version moved to another	DELETE: its key is another one
 *					partition					there, since every primary key
 *												contains the partition key
 *	  resent		a live version				SYNC, read under lock
 *	  resent		a deleted version			none
 *
 * Versions noted for resending are kept by a registered snapshot (sync.c).
 *
 * Messages are in the order of first touches, with two exceptions.  If keys
 * may have passed from one row to another (a key was updated, the primary key
 * is deferrable, a trigger after ours may do either, or a trigger of a DELETE
 * has inserted rows before ours noted it), all DELETEs of the table come first,
 * so that no DELETE of a key follows the SAVE of its new owner.  SYNCs come
 * last, so that none has the revision of a SAVE that follows.
 *
 * If a version can have been noted twice, all versions that a chain passed are
 * remembered, and notes of remembered versions are skipped.  That is so after
 * a rewrite of the table, since the xmin of a row no longer shows whether the
 * row is new.
 *
 * Runs with an active snapshot, for toasted values and hooks.  Memory of one
 * row lives in a context that is reset for each note.  The versions of the
 * current row are pinned until the next note is followed or the table is left.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/guc.h"
#include "capture/chain.h"
#include "capture/changeset.h"
#include "capture/resolve.h"
#include "compose/compose.h"
#include "compose/hook.h"
#include "master/relation.h"
#include "master/row.h"

/* What a pass over the notes makes. */
typedef enum Pass
{
	PASS_ALL,
	PASS_DELETES,
	PASS_OTHERS,
	PASS_LOCK,					/* no messages: rows to send again are locked */
	PASS_RESENT
} Pass;

typedef struct Resolver
{
	MemoryContext context;		/* holds all of this */
	MemoryContext row_context;	/* reset for each note */
	CqrsComposer *composer;
	Pass		pass;
	bool		flush;			/* changes may follow */
	bool		late;			/* no function of a user may run */

	/* The current table */
	int			target;			/* -1: none */
	Relation	rel;			/* NULL: the table is gone */
	CqrsRelation *relation;
	CqrsRow		before;
	CqrsRow		after;
	CqrsChain	chain;			/* of the current note */
} Resolver;

static void check_keys_settled(void);
static void set_done(void);
static int64 resolve_all(bool flush, bool late);
static Resolver *begin_resolver(void);
static int64 end_resolver(Resolver *resolver);
static void run_pass(Resolver *resolver, Pass pass);
static bool any_resent(void);
static bool use_target(Resolver *resolver, int index);
static void use_relation(Resolver *resolver, Relation rel);
static void leave_relation(Resolver *resolver);
static void resolve_note(Resolver *resolver, const CqrsNote *note);
static bool keep(Resolver *resolver, const CqrsNote *note);
static bool is_unchanged(Resolver *resolver, const CqrsNote *note);
static void resolve_change(Resolver *resolver, const CqrsNote *note);
static void resolve_resent(Resolver *resolver, const CqrsTarget *target);

bool
cqrs_resolve_all(bool late)
{
	int64		nmessages = 0;

	if (cqrs_changeset_is_empty())
		return false;
	if (cqrs_produce)
		nmessages = resolve_all(false, late);
	set_done();
	return nmessages > 0;
}

int64
cqrs_resolve_flush(void)
{
	int64		nmessages;

	if (cqrs_changeset_is_empty() || !cqrs_produce)
		return 0;

	check_keys_settled();
	nmessages = resolve_all(true, false);
	set_done();
	return nmessages;
}

/* Later changes are recognised by their command ids. */
static void
set_done(void)
{
	CommandCounterIncrement();
	cqrs_changeset_all_done();
}

/*
 * If a primary key is checked at commit, two rows may have the same key until
 * then, and replicas would take a message of one row for a message of the
 * other.
 */
static void
check_keys_settled(void)
{
	for (int i = 0; i < cqrs_changeset_ntargets(); i++)
	{
		Oid			relid = cqrs_changeset_get_target(i)->relid;
		const CqrsRelation *relation;

		if (!cqrs_changeset_has_notes(relid) ||
			!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
			continue;
		relation = cqrs_relation_get(relid);
		if (relation != NULL && relation->key_deferrable)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot send changes of table \"%s\" before the end of the transaction",
							get_rel_name(relid)),
					 errdetail("The primary key of the table is deferrable, so keys may not be unique yet."),
					 errhint("Commit the transaction instead.")));
	}
}

/*
 * Make the messages of all notes, and return their number.  "flush" and "late"
 * are as in the Resolver.
 */
static int64
resolve_all(bool flush, bool late)
{
	Resolver   *resolver;
	int64		nmessages;

	/* Make the last command's changes visible. */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	resolver = begin_resolver();
	resolver->flush = flush;
	resolver->late = late;
	cqrs_changeset_freeze();

	if (cqrs_changeset_keys_move())
	{
		run_pass(resolver, PASS_DELETES);
		run_pass(resolver, PASS_OTHERS);
	}
	else
		run_pass(resolver, PASS_ALL);
	if (any_resent())
	{
		run_pass(resolver, PASS_LOCK);
		cqrs_compose_draw_batch(resolver->composer);
		run_pass(resolver, PASS_RESENT);
	}

	nmessages = end_resolver(resolver);
	cqrs_changeset_thaw();
	PopActiveSnapshot();
	return nmessages;
}

/* In a context of its own, below that of the (sub)transaction. */
static Resolver *
begin_resolver(void)
{
	MemoryContext context = AllocSetContextCreate(CurTransactionContext,
												  "cqrs resolver",
												  ALLOCSET_SMALL_SIZES);
	Resolver   *resolver = MemoryContextAllocZero(context, sizeof(Resolver));
	MemoryContext caller;

	resolver->context = context;
	resolver->row_context = AllocSetContextCreate(context, "cqrs row",
												  ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	resolver->composer = cqrs_compose_begin();
	cqrs_chain_init(&resolver->chain);
	MemoryContextSwitchTo(caller);
	resolver->target = -1;
	return resolver;
}

/* Returns the number of messages. */
static int64
end_resolver(Resolver *resolver)
{
	int64		nmessages;

	leave_relation(resolver);
	nmessages = cqrs_compose_end(resolver->composer);
	MemoryContextDelete(resolver->context);
	return nmessages;
}

/* One walk over all notes that have not been dealt with. */
static void
run_pass(Resolver *resolver, Pass pass)
{
	CqrsWalk	walk;
	const CqrsNote *note;

	resolver->pass = pass;
	cqrs_chain_forget(&resolver->chain);

	cqrs_changeset_walk(&walk);
	while ((note = cqrs_changeset_next(&walk)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (use_target(resolver, note->target))
			resolve_note(resolver, note);
	}
}

/* Whether rows are to be sent again. */
static bool
any_resent(void)
{
	for (int i = 0; i < cqrs_changeset_ntargets(); i++)
	{
		if (cqrs_changeset_get_target(i)->kind == CQRS_NOTE_RESENT)
			return true;
	}
	return false;
}

/* Open the table of a target; false when there is nothing to send for it. */
static bool
use_target(Resolver *resolver, int index)
{
	CqrsTarget *target = cqrs_changeset_get_target(index);
	Relation	rel;

	if ((target->kind == CQRS_NOTE_RESENT) !=
		(resolver->pass == PASS_LOCK || resolver->pass == PASS_RESENT))
		return false;
	if (resolver->target != index)
	{
		leave_relation(resolver);
		resolver->target = index;
		rel = try_relation_open(target->relid, AccessShareLock);
		if (rel != NULL)
			use_relation(resolver, rel);
	}
	if (resolver->rel == NULL || resolver->relation == NULL)
		return false;

	cqrs_changeset_check_file(target, resolver->rel);
	return resolver->pass != PASS_DELETES || target->keys_move;
}

/*
 * Go to the table of the next notes; the composer enters it if it has masters.
 */
static void
use_relation(Resolver *resolver, Relation rel)
{
	MemoryContext caller = MemoryContextSwitchTo(resolver->context);

	resolver->rel = rel;
	resolver->relation = cqrs_relation_get(RelationGetRelid(rel));
	cqrs_row_init(&resolver->before, rel);
	cqrs_row_init(&resolver->after, rel);
	MemoryContextSwitchTo(caller);

	if (resolver->relation == NULL)
		return;
	if (resolver->late && cqrs_hook_any(resolver->relation))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot make messages of table \"%s\" at this point of the commit",
						RelationGetRelationName(rel)),
				 errdetail("The table was changed after deferred triggers had fired, and messages of the table need functions or expressions of users.")));
	cqrs_compose_enter(resolver->composer, rel, resolver->relation);
}

/* Leave the current table, if there is one, and close it. */
static void
leave_relation(Resolver *resolver)
{
	if (resolver->rel == NULL)
		return;
	cqrs_compose_leave(resolver->composer);
	cqrs_chain_release(&resolver->chain);
	relation_close(resolver->rel, NoLock);
	resolver->rel = NULL;
	pfree(resolver->before.values);
	pfree(resolver->before.nulls);
	pfree(resolver->after.values);
	pfree(resolver->after.nulls);
}

/* Make the messages of a note that the current pass makes. */
static void
resolve_note(Resolver *resolver, const CqrsNote *note)
{
	const CqrsTarget *target = cqrs_changeset_get_target(note->target);
	MemoryContext caller;
	ItemPointerData tid = note->tid;

	if (target->repeats && target->kind != CQRS_NOTE_RESENT &&
		cqrs_chain_seen(&resolver->chain, resolver->rel, &tid))
	{
		if (resolver->flush &&
			cqrs_chain_follow(&resolver->chain, resolver->rel, &tid,
							  false) == CQRS_FATE_LIVE)
			(void) keep(resolver, note);
		return;
	}

	caller = MemoryContextSwitchTo(resolver->row_context);
	if (target->kind == CQRS_NOTE_RESENT)
	{
		if (cqrs_chain_follow(&resolver->chain, resolver->rel, &tid,
							  false) == CQRS_FATE_LIVE &&
			!keep(resolver, note))
			resolve_resent(resolver, target);
	}
	else
	{
		switch (cqrs_chain_follow(&resolver->chain, resolver->rel, &tid,
								  target->repeats))
		{
			case CQRS_FATE_LIVE:
				resolve_change(resolver, note);
				break;
			case CQRS_FATE_DELETED:
			case CQRS_FATE_MOVED:
				if (target->kind == CQRS_NOTE_TOUCHED &&
					(resolver->pass != PASS_OTHERS || !target->keys_move))
				{
					cqrs_row_set(&resolver->before, resolver->rel,
								 &resolver->chain.noted.tuple);
					cqrs_row_set(&resolver->after, resolver->rel,
								 &resolver->chain.last->tuple);
					cqrs_compose_deleted(resolver->composer,
										 &resolver->before,
										 &resolver->after);
				}
				break;
		}
	}
	MemoryContextSwitchTo(caller);
	MemoryContextReset(resolver->row_context);
}

/*
 * Whether there is no message for a note now, because an update of its live row
 * is still to come, or nothing has changed.  cqrs_flush() keeps the note.
 *
 * A row that is just being updated waits for that even if it was changed before:
 * its revision was raised by the first change, and its trigger has fired, so that
 * nothing would note the update.
 */
static bool
keep(Resolver *resolver, const CqrsNote *note)
{
	if (!is_unchanged(resolver, note) &&
		!(resolver->flush &&
		  cqrs_changeset_is_updating(resolver->rel,
									 &resolver->chain.last->tuple.t_self)))
		return false;
	if (resolver->flush && resolver->pass != PASS_DELETES &&
		resolver->pass != PASS_LOCK)
		cqrs_changeset_keep(note);
	return true;
}

/*
 * Whether the version that was noted as touched is still the last one of its
 * row.
 */
static bool
is_unchanged(Resolver *resolver, const CqrsNote *note)
{
	return cqrs_changeset_get_target(note->target)->kind == CQRS_NOTE_TOUCHED &&
		ItemPointerEquals(&resolver->chain.noted.tuple.t_self,
						  &resolver->chain.last->tuple.t_self);
}

/* The row is live: a SAVE, and a DELETE before it if the key has changed. */
static void
resolve_change(Resolver *resolver, const CqrsNote *note)
{
	const CqrsTarget *target = cqrs_changeset_get_target(note->target);
	bool		key_changed = false;

	if (keep(resolver, note))
		return;

	cqrs_row_set(&resolver->after, resolver->rel, &resolver->chain.last->tuple);
	if (target->kind == CQRS_NOTE_TOUCHED)
	{
		cqrs_row_set(&resolver->before, resolver->rel,
					 &resolver->chain.noted.tuple);
		/* A trigger after ours can undo the change, the revision included. */
		if (cqrs_row_same(resolver->rel, resolver->relation,
						  &resolver->before, &resolver->after))
			return;
		key_changed = !cqrs_row_same_key(resolver->rel, resolver->relation,
										 &resolver->before, &resolver->after);
	}

	if (key_changed &&
		(resolver->pass != PASS_OTHERS || !target->keys_move))
		cqrs_compose_deleted(resolver->composer, &resolver->before,
							 &resolver->before);
	if (resolver->pass != PASS_DELETES)
		cqrs_compose_saved(resolver->composer,
						   target->kind == CQRS_NOTE_TOUCHED && !key_changed ?
						   &resolver->before : NULL, &resolver->after);
}

/*
 * Replicas apply a SYNC whatever its revision is.  So a SYNC has to carry the
 * last committed state, and no other transaction may commit a newer one before
 * this one: take the row's lock, and follow the changes that other
 * transactions have made meanwhile.  Rows that this transaction itself has
 * written are locked already.
 *
 * All rows are locked before any message is made, and then a batch of ids is
 * drawn: the messages of the transactions that were waited for get lower ids.
 */
static void
resolve_resent(Resolver *resolver, const CqrsTarget *target)
{
	TupleTableSlot *slot = NULL;
	HeapTuple	tuple = &resolver->chain.last->tuple;
	ListCell   *lc;

	if (!TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)))
	{
		slot = table_slot_create(resolver->rel, NULL);
		tuple = cqrs_chain_lock(resolver->rel, tuple->t_self, slot);
	}

	if (tuple != NULL && resolver->pass == PASS_RESENT)
	{
		cqrs_row_set(&resolver->after, resolver->rel, tuple);
		foreach(lc, resolver->relation->masters)
		{
			CqrsMaster *master = lfirst(lc);

			if (strcmp(master->cqrs_id, target->cqrs_id) == 0)
				cqrs_compose_resent(resolver->composer, master, target->queue,
									&resolver->after);
		}
	}
	if (slot != NULL)
		ExecDropSingleTupleTableSlot(slot);
}
