/*-------------------------------------------------------------------------
 *
 * commit.c
 *	  When the messages of a transaction are made: as its last deferred trigger.
 *
 * Making messages can run users' functions and can fail.  PostgreSQL and other
 * extensions expect both while deferred triggers fire: portals are closed
 * afterwards, and callbacks of extensions before a commit run later still, for
 * example to commit the remote transactions of postgres_fdw.  So the first
 * note of a transaction queues an event of a deferred constraint trigger, the
 * one of the table cqrs.at_commit.  The table stays empty; the event has no
 * row.
 *
 * Deferred triggers fire in the order of their events, in rounds: events that
 * they queue fire in the next round.  They may change masters, so our trigger
 * has to be the last one.  When it fires it queues its event again, unless no
 * command has changed anything since it last fired.  In that case nothing is
 * left to fire: an event before ours has fired before it, and an event behind
 * ours was queued by a change made since.
 *
 * SET CONSTRAINTS ALL IMMEDIATE fires our trigger as well, in the middle of a
 * transaction or of another deferred trigger.  From then on PostgreSQL fires
 * events as soon as they are queued.  Our trigger recognises this case because
 * its event, queued again, fires at once.  Our trigger is then set to be
 * deferred, as SET CONSTRAINTS does, and the event is queued once more.  If a
 * savepoint is rolled back, both are undone together with the command.
 *
 * The end of a transaction closes cursors WITH HOLD after the deferred
 * triggers have fired.  PostgreSQL reads their rows, functions in the query
 * may change masters, and deferred triggers fire once more.  Such changes get
 * messages of their own, as changes after cqrs_flush() do.
 *
 * After that no trigger fires.  Changes that a callback of another extension
 * makes before the commit (XACT_EVENT_PRE_COMMIT) are resolved in our
 * callback, as long as no user's function takes part.  If one does, or if our
 * callback has been called already, the transaction fails, as it does when
 * such a callback fails.
 *
 * The publisher is woken after the commit; that cannot fail, because whoever has
 * something for the publisher has taken the slot of the database before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/makefuncs.h"
#include "utils/fmgrprotos.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "base/objects.h"
#include "base/slot.h"
#include "capture/changeset.h"
#include "capture/commit.h"
#include "capture/resolve.h"
#include "outbox/published.h"
#include "worker/wake.h"

PG_FUNCTION_INFO_V1(cqrs_trigger_at_commit);

/* The outermost subtransaction that has written messages, or invalid. */
static SubTransactionId written_in = InvalidSubTransactionId;
static Snapshot kept_snapshot = NULL;

/*
 * The outermost subtransaction that has an event of ours in the queue, or
 * invalid.  If the event has fired in a subtransaction within that one, and
 * that subtransaction fails, PostgreSQL has the event fire again.
 */
static SubTransactionId scheduled_in = InvalidSubTransactionId;

/* Command id after our trigger last fired at the end of the transaction. */
static CommandId last_fired = InvalidCommandId;

/* Whether an event is being queued, and whether it has fired meanwhile. */
static bool queueing = false;
static bool fired_at_once;

/* Changes can no longer be resolved: they raise an error. */
static bool closed = false;

static bool queue(void);
static bool queue_event(void);
static Trigger *find_trigger(const TriggerDesc *triggers);
static void set_deferred(void);
static void fire(void);
static void finish(bool late);
static void release_snapshot(void);
static void forget(void);
static void at_transaction_end(XactEvent event, void *arg);
static void at_subtransaction_end(SubXactEvent event, SubTransactionId subid,
								  SubTransactionId parent, void *arg);

void
cqrs_commit_init(void)
{
	RegisterXactCallback(at_transaction_end, NULL);
	RegisterSubXactCallback(at_subtransaction_end, NULL);
}

void
cqrs_commit_schedule(void)
{
	if (likely(scheduled_in != InvalidSubTransactionId))
		return;
	if (closed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot change a table with a master at this point of the commit"),
				 errdetail("The messages of the transaction have been made.")));
	(void) queue();
	scheduled_in = GetCurrentSubTransactionId();
	last_fired = InvalidCommandId;
}

void
cqrs_commit_note_written(void)
{
	SubTransactionId current = GetCurrentSubTransactionId();

	/* Taking a slot can fail, so it is done before the commit. */
	(void) cqrs_slot_mine();
	if (written_in == InvalidSubTransactionId || current < written_in)
		written_in = current;
}

void
cqrs_commit_keep_snapshot(void)
{
	if (kept_snapshot == NULL)
		kept_snapshot = RegisterSnapshotOnOwner(GetActiveSnapshot(),
												TopTransactionResourceOwner);
}

bool
cqrs_commit_has_unsent(void)
{
	return written_in != InvalidSubTransactionId ||
		!cqrs_changeset_is_empty();
}

/*
 * AFTER INSERT FOR EACH ROW ON cqrs.at_commit, deferred.  If a user inserts a
 * row there, it is ignored.
 */
Datum
cqrs_trigger_at_commit(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BY_INSERT(data->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(data->tg_event) ||
		!TRIGGER_FIRED_AFTER(data->tg_event) ||
		RelationGetRelid(data->tg_relation) != cqrs_objects_get(false)->at_commit)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function %s can only be called by the trigger of table \"cqrs.at_commit\"",
						format_procedure(fcinfo->flinfo->fn_oid))));

	if (data->tg_trigtuple == NULL)
	{
		if (queueing)
			fired_at_once = true;
		else if (scheduled_in != InvalidSubTransactionId)
			fire();
	}
	return PointerGetDatum(NULL);
}

/* An event of ours fires at the end: resolve the notes if it is the last. */
static void
fire(void)
{
	bool		nested = DatumGetInt32(DirectFunctionCall1(pg_trigger_depth,
														   (Datum) 0)) > 1;
	CommandId	command;

	CommandCounterIncrement();
	command = GetCurrentCommandId(false);
	if (nested || command != last_fired)
	{
		bool		deferred = queue();

		last_fired = deferred && !nested ? command : InvalidCommandId;
		return;
	}
	scheduled_in = InvalidSubTransactionId;
	last_fired = InvalidCommandId;
	finish(false);
}

/*
 * Queue an event, to be fired at the end of the transaction.  If triggers are
 * not deferred at present, make our trigger deferred and return false.
 */
static bool
queue(void)
{
	if (queue_event())
		return true;
	set_deferred();
	if (!queue_event())
		elog(ERROR, "trigger of table cqrs.at_commit is not deferred");
	return false;
}

/*
 * Queue an event.  False if it has fired at once.
 *
 * In a security-restricted operation (a function that REFRESH MATERIALIZED
 * VIEW calls, for example) PostgreSQL refuses deferred triggers, since they
 * would escape the restriction.  Our trigger sets its own restrictions before
 * it calls users' functions, whenever it fires.
 */
static bool
queue_event(void)
{
	Relation	rel = table_open(cqrs_objects_get(false)->at_commit,
								 AccessShareLock);
	ResultRelInfo *info = makeNode(ResultRelInfo);
	TupleTableSlot *no_row = MakeSingleTupleTableSlot(RelationGetDescr(rel),
													  &TTSOpsVirtual);
	Oid			role;
	int			security;
	Trigger    *trigger = find_trigger(rel->trigdesc);
	TriggerDesc triggers = {
		.triggers = trigger,
		.numtriggers = 1,
		.trig_insert_after_row = true
	};

	if (trigger == NULL || trigger->tgenabled != TRIGGER_FIRES_ALWAYS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("trigger \"at_commit\" of table \"cqrs.at_commit\" is missing or disabled"),
				 errdetail("The trigger makes the messages of a transaction."),
				 trigger == NULL ?
				 errhint("Use CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON cqrs.at_commit "
						 "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION cqrs.trigger_at_commit(), "
						 "and then ALTER TABLE cqrs.at_commit ENABLE ALWAYS TRIGGER at_commit.") :
				 errhint("Use ALTER TABLE cqrs.at_commit ENABLE ALWAYS TRIGGER at_commit.")));
	info->ri_RelationDesc = rel;

	/*
	 * Others would be given a row that there is not, and a WHEN needs the
	 * state of an executor.
	 */
	info->ri_TrigDesc = &triggers;

	queueing = true;
	fired_at_once = false;
	GetUserIdAndSecContext(&role, &security);
	SetUserIdAndSecContext(role, security & ~SECURITY_RESTRICTED_OPERATION);
	AfterTriggerBeginQuery();
	ExecARInsertTriggers(NULL, info, no_row, NIL, NULL);
	AfterTriggerEndQuery(NULL);
	SetUserIdAndSecContext(role, security);
	queueing = false;

	ExecDropSingleTupleTableSlot(no_row);
	pfree(info);
	/* The lock stays: PostgreSQL expects it when the trigger fires. */
	table_close(rel, NoLock);
	return !fired_at_once;
}

/* Our trigger, if the table has it without WHEN. */
static Trigger *
find_trigger(const TriggerDesc *triggers)
{
	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (strcmp(trigger->tgname, "at_commit") == 0)
			return trigger->tgqual == NULL ? trigger : NULL;
	}
	return NULL;
}

/*
 * SET CONSTRAINTS cqrs.at_commit DEFERRED, which reverses SET CONSTRAINTS ALL
 * IMMEDIATE for our trigger.  The writer may lack privileges on the schema.
 */
static void
set_deferred(void)
{
	ConstraintsSetStmt *statement = makeNode(ConstraintsSetStmt);
	Oid			role;
	int			security;

	statement->constraints = list_make1(makeRangeVar("cqrs", "at_commit", -1));
	statement->deferred = true;
	GetUserIdAndSecContext(&role, &security);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID,
						   security | SECURITY_LOCAL_USERID_CHANGE);
	AfterTriggerSetState(statement);
	SetUserIdAndSecContext(role, security);
}

/* Make the messages of all notes. */
static void
finish(bool late)
{
	if (cqrs_resolve_all(late))
		cqrs_commit_note_written();
	release_snapshot();
}

static void
release_snapshot(void)
{
	if (kept_snapshot != NULL)
		UnregisterSnapshotFromOwner(kept_snapshot,
									TopTransactionResourceOwner);
	kept_snapshot = NULL;
}

/* The transaction has ended: nothing of it is kept. */
static void
forget(void)
{
	written_in = scheduled_in = InvalidSubTransactionId;
	kept_snapshot = NULL;
	closed = queueing = false;
	cqrs_changeset_reset();
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			if (cqrs_changeset_has_pending())
				finish(true);
			release_snapshot();
			closed = true;
			/* An event that has not fired by now does not fire. */
			scheduled_in = InvalidSubTransactionId;
			break;

		case XACT_EVENT_COMMIT:
			Assert(!cqrs_changeset_has_pending());	/* I1 */
			if (written_in != InvalidSubTransactionId)
			{
				cqrs_published_count_commit();
				cqrs_wake_listeners(CQRS_WORKER_PUBLISHER);
			}
			forget();
			break;

		case XACT_EVENT_PREPARE:
			Assert(!cqrs_changeset_has_pending());	/* I1 */
			forget();
			break;

		case XACT_EVENT_ABORT:
			forget();
			break;

		default:
			break;
	}
}

static void
at_subtransaction_end(SubXactEvent event, SubTransactionId subid,
					  SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		cqrs_changeset_abort_sub(subid);
		if (written_in >= subid)
			written_in = InvalidSubTransactionId;
		if (scheduled_in >= subid)
			scheduled_in = InvalidSubTransactionId;
		queueing = false;
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB && written_in == subid)
		written_in = parent;
}
