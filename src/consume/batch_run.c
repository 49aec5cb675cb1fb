/*-------------------------------------------------------------------------
 *
 * batch_run.c
 *	  A transaction that applies messages of a batch.
 *
 * A transaction takes about RUN_MS at most; lock_timeout and
 * cqrs.apply_timeout bound longer statements.  If code of users catches the
 * error of cqrs.apply_timeout and goes on, the process ends at twice
 * cqrs.apply_timeout, and the next consumer is wary (consumer.c).  The
 * connection to the broker is served between messages.
 *
 * The rights of the owner hold from the first message to the commit.  What the
 * commit would run of users' code, deferred triggers and the queries of cursors
 * WITH HOLD, is run before it, within the time limit: nothing limits the
 * commit, and the code could set synchronous_commit.  After an error the caller
 * aborts the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "base/caught.h"
#include "base/guc.h"
#include "base/timing.h"
#include "consume/batch.h"
#include "consume/batch_parts.h"
#include "consume/seat.h"
#include "worker/worker.h"

/* A transaction takes no further message after this time. */
#define RUN_MS			200
/*
 * Waits for locks: of the first message of a transaction, of further messages,
 * and of messages for which there is no patience.
 */
#define LOCK_WAIT_MS	5000
#define NEXT_WAIT_MS	500
#define SHORT_WAIT_MS	20

/* A message that is applied, with constraints checked at once. */
typedef struct Single
{
	CqrsBatchProgress *progress;
	CqrsItem   *item;
} Single;

static void run_messages(CqrsBatch *batch, CqrsBatchProgress *progress);
static bool has_enough(const CqrsBatch *batch,
					   const CqrsBatchProgress *progress);
static bool run_message(CqrsBatch *batch, CqrsBatchProgress *progress,
						CqrsItem *item);
static void apply_bounded(CqrsBatchProgress *progress, CqrsItem *item,
						  bool check);
static bool apply_singly(CqrsBatch *batch, CqrsBatchProgress *progress,
						 CqrsItem *item);
static void apply_checked(void *arg);
static void store_failed(CqrsBatch *batch, CqrsBatchProgress *progress,
						 CqrsItem *item);
static void set_constraints_immediate(void);
static void limit_lock_waits(const CqrsBatch *batch,
							 const CqrsBatchProgress *progress,
							 const CqrsItem *item);
static void begin_time_limit(void);
static void end_process(void);
static void explain_end(int code, Datum arg);

/* The timeout that ends the process, and whether it has done so. */
static TimeoutId last_resort;
static volatile sig_atomic_t is_last_resort = false;

void
cqrs_batch_run_init(void)
{
	last_resort = RegisterTimeout(USER_TIMEOUT, end_process);
	before_shmem_exit(explain_end, (Datum) 0);
}

void
cqrs_batch_run_transaction(CqrsBatch *batch, CqrsBatchProgress *progress)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	progress->began_at = GetCurrentTimestamp();
	progress->run.logged = &batch->logged;
	progress->run.quota = &batch->quota;
	progress->run.any_failed = cqrs_failed_any();

	run_messages(batch, progress);
	if (progress->run.applier != NULL)
	{
		progress->item_at = GetCurrentTimestamp();
		begin_time_limit();
		if (batch->mode == CQRS_BATCH_MODE_TOGETHER)
			set_constraints_immediate();
		/* As the commit does: a trigger may have deferred others again. */
		do
			AfterTriggerFireDeferred();
		while (PreCommit_Portals(false));
		cqrs_batch_run_end_time_limit();
		cqrs_apply_end(progress->run.applier);
	}
	if (batch->wary)
		cqrs_seat_clear_suspect();
	PopActiveSnapshot();
	cqrs_worker_begin_commit();
	Assert(synchronous_commit >= SYNCHRONOUS_COMMIT_ON);	/* I24 */
	Assert(progress->run.applier == NULL || GetUserId() == progress->run.owner);	/* I30 */
	CommitTransactionCommand();
	cqrs_apply_forget();
}

/*
 * Go through the messages that are not done, until the transaction has enough.
 * progress->taken gets the numbers of those that it settles.
 */
static void
run_messages(CqrsBatch *batch, CqrsBatchProgress *progress)
{
	if (batch->mode == CQRS_BATCH_MODE_SINGLY || batch->mode == CQRS_BATCH_MODE_ALONE)
		set_constraints_immediate();
	for (int i = 0; i < batch->nitems && !has_enough(batch, progress); i++)
	{
		MemoryContext caller;
		bool		taken;

		if (batch->items[i].done)
			continue;
		cqrs_intake_serve(batch->intake);
		CHECK_FOR_INTERRUPTS();
		caller = MemoryContextSwitchTo(batch->scratch);
		taken = run_message(batch, progress, &batch->items[i]);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(batch->scratch);
		if (taken)
			progress->taken[progress->ntaken++] = i;
	}
}

/* Whether the transaction is to commit now. */
static bool
has_enough(const CqrsBatch *batch, const CqrsBatchProgress *progress)
{
	int			most = CQRS_BATCH_MESSAGES;

	if (batch->mode == CQRS_BATCH_MODE_SINGLY)
		most = CQRS_BATCH_SINGLY;
	else if (batch->mode != CQRS_BATCH_MODE_TOGETHER)
		most = 1;
	return progress->halted || ShutdownRequestPending ||
		progress->ntaken >= most ||
		(progress->ntaken > 0 &&
		 cqrs_until_after_ms(progress->began_at, RUN_MS) == 0);
}

/*
 * Returns whether this transaction settles the message.  If not, it is left to
 * another one.
 */
static bool
run_message(CqrsBatch *batch, CqrsBatchProgress *progress, CqrsItem *item)
{
	/* Each message sees what was committed before it, as a statement does. */
	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());

	if (!cqrs_item_take(&progress->run, item))
		return true;
	if (batch->mode == CQRS_BATCH_MODE_STORE)
	{
		store_failed(batch, progress, item);
		return true;
	}
	switch (cqrs_item_begin(&progress->run, item))
	{
		case CQRS_ITEM_SETTLED:
			return true;
		case CQRS_ITEM_OTHER_OWNER:
			return false;
		case CQRS_ITEM_APPLIES:
			break;
	}
	limit_lock_waits(batch, progress, item);
	if (batch->mode == CQRS_BATCH_MODE_SINGLY)
		return apply_singly(batch, progress, item);
	apply_bounded(progress, item, batch->mode == CQRS_BATCH_MODE_ALONE);
	return true;
}

/*
 * Apply a message within cqrs.apply_timeout.  With "check", constraints that a
 * trigger has deferred again are checked, too.
 */
static void
apply_bounded(CqrsBatchProgress *progress, CqrsItem *item, bool check)
{
	progress->item_at = GetCurrentTimestamp();
	begin_time_limit();
	cqrs_item_apply(&progress->run, item);
	if (check)
		set_constraints_immediate();
	cqrs_batch_run_end_time_limit();
}

/*
 * Apply a message in a subtransaction.  If the subtransaction fails, the
 * message is stored.
 */
static bool
apply_singly(CqrsBatch *batch, CqrsBatchProgress *progress, CqrsItem *item)
{
	Single		single = {.progress = progress,.item = item};
	CqrsRun		before = progress->run;
	CqrsProblem problem;
	ErrorData  *error = cqrs_caught_run(apply_checked, &single);

	if (error == NULL)
		return true;
	progress->run = before;
	cqrs_verdict_describe(error, cqrs_batch_run_is_time_over(progress), &problem);
	if (ShutdownRequestPending ||
		(cqrs_verdict_may_pass(&problem) && cqrs_batch_has_patience(batch, item)))
	{
		/* Commit the messages before; then this message is the first one. */
		progress->halted = true;
		return false;
	}
	progress->run.replica = cqrs_replica_find(item->message.cqrs_id);
	begin_time_limit();
	cqrs_item_fail(&progress->run, item, &problem,
				   cqrs_verdict_counts(&problem));
	cqrs_batch_run_end_time_limit();
	if (cqrs_verdict_may_pass(&problem))
		cqrs_batch_lose_patience(batch, item);
	return true;
}

static void
apply_checked(void *arg)
{
	Single	   *single = arg;

	PushActiveSnapshot(GetTransactionSnapshot());
	PG_TRY();
	{
		apply_bounded(single->progress, single->item, true);
	}
	PG_CATCH();
	{
		/* The rollback has all the time that it takes. */
		cqrs_batch_run_end_time_limit();
		PG_RE_THROW();
	}
	PG_END_TRY();
	PopActiveSnapshot();
}

/*
 * Store a message without trying it.  Its replica decides when the message is
 * tried next, unless the replica's function fails.
 */
static void
store_failed(CqrsBatch *batch, CqrsBatchProgress *progress, CqrsItem *item)
{
	CqrsRun    *run = &progress->run;

	run->replica = NULL;
	if (item->problem == NULL && batch->stuck == 0)
		run->replica = cqrs_replica_find(item->message.cqrs_id);
	if (run->replica != NULL && OidIsValid(run->replica->owner))
	{
		/* Its function "retry" is called with the rights of the owner. */
		MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);

		run->owner = run->replica->owner;
		run->applier = cqrs_apply_begin(run->owner);
		MemoryContextSwitchTo(caller);
		run->replica = cqrs_replica_find(item->message.cqrs_id);
	}
	begin_time_limit();
	cqrs_item_fail(run, item, &batch->problem, batch->counts);
	cqrs_batch_run_end_time_limit();
}

/* Check deferred constraints, and each further one at once. */
static void
set_constraints_immediate(void)
{
	ConstraintsSetStmt *statement = makeNode(ConstraintsSetStmt);

	AfterTriggerSetState(statement);
	pfree(statement);
}

/*
 * Many messages of a table that is locked must not hold up their neighbours
 * for the full wait each.  And while the transaction holds the rows of other
 * messages, the wait is shorter than the usual deadlock_timeout: a session
 * that waits for such a row, and has the row that is waited for here, must not
 * become the victim.
 */
static void
limit_lock_waits(const CqrsBatch *batch, const CqrsBatchProgress *progress,
				 const CqrsItem *item)
{
	int			wait_ms = progress->ntaken > 0 ? NEXT_WAIT_MS : LOCK_WAIT_MS;
	char		value[16];

	if (batch->retry || cqrs_batch_is_tried_out(batch, item))
		wait_ms = SHORT_WAIT_MS;

	if (LockTimeout == wait_ms)
		return;
	snprintf(value, sizeof(value), "%d", wait_ms);
	(void) set_config_option("lock_timeout", value, PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, ERROR, false);
}

/*
 * From now on a statement is cancelled after cqrs.apply_timeout, and the
 * process ends after twice that.
 */
static void
begin_time_limit(void)
{
	is_last_resort = false;
	if (cqrs_apply_timeout_ms == 0)
		return;
	enable_timeout_after(STATEMENT_TIMEOUT, cqrs_apply_timeout_ms);
	enable_timeout_after(last_resort,
						 2 * Min(cqrs_apply_timeout_ms, INT_MAX / 2));
}

/* Timeout handler. */
static void
end_process(void)
{
	is_last_resort = true;
	cqrs_worker_fail();
}

/* Exit callback: PostgreSQL's message speaks of an administrator. */
static void
explain_end(int code, Datum arg)
{
	if (!is_last_resort)
		return;
	cqrs_worker_set_error("a message took longer than twice \"cqrs.apply_timeout\"");
	ereport(LOG,
			(errmsg("cqrs consumer ends because a message took longer than twice \"cqrs.apply_timeout\""),
			 errdetail("A trigger or a function of the replica's owner has caught the error of the timeout."),
			 errhint("Do not catch the condition query_canceled in exception handlers.")));
}

void
cqrs_batch_run_end_time_limit(void)
{
	if (cqrs_apply_timeout_ms == 0)
		return;
	disable_timeout(STATEMENT_TIMEOUT, false);
	disable_timeout(last_resort, false);
	is_last_resort = false;
	if (!ShutdownRequestPending)
		QueryCancelPending = false;
}

bool
cqrs_batch_run_is_time_over(const CqrsBatchProgress *progress)
{
	return cqrs_apply_timeout_ms > 0 && progress->item_at != 0 &&
		cqrs_until_after_ms(progress->item_at, cqrs_apply_timeout_ms) == 0;
}
