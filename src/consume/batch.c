/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  Messages that are applied together.
 *
 * A batch has the messages that had arrived.  It becomes one transaction for
 * each owner of its replicas, since a transaction has the rights of one owner
 * from its first message to its commit.  Only when all of them have committed,
 * durably, is the batch done, and acknowledged.
 *
 * When a transaction fails, its messages are tried in ever smaller company,
 * to find the one at fault:
 *
 *	  TOGETHER	as many as fit, deferred constraints at the end: rows may
 *				precede those that they refer to
 *	  SINGLY	each in a subtransaction, constraints at once; few, because
 *				snapshots of other sessions slow down above 64.  What fails is
 *				stored in cqrs.failed by the same transaction
 *	  ALONE		one message, for what fails at commit only
 *	  STORE		the last one that failed ALONE is stored, and not tried
 *
 * The last step shows what is at fault.  If a transaction that stores the
 * failed message commits, the message was.  If not even STORE commits, the
 * database is: the batch is stuck, and STORE is tried again after a delay.  No
 * attempt has been counted then.
 *
 * Errors that may pass (locks, deadlocks, resources) are not stored at once:
 * the message is tried PATIENCE times within a minute, and then stored without
 * counting the attempt.  Until a message of its replica has been applied,
 * there is no patience with further messages of the replica, nor a long wait
 * for a lock.
 *
 * batch_run.c has the transaction.
 *
 * The messages are in the context of the batch, bodies of deliveries in the
 * inbox.  "cqrs item" is reset after each message.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "utils/memutils.h"

#include "base/caught.h"
#include "base/strings.h"
#include "base/timing.h"
#include "consume/applied.h"
#include "consume/batch.h"
#include "consume/batch_parts.h"
#include "consume/leftover.h"
#include "worker/worker.h"

/* A batch of failed messages ends after this time; others wait for it. */
#define RETRY_MS		500
/* How often a message is tried again after errors that may pass. */
#define PATIENCE		5
/* Delays before these tries, and while nothing can be committed. */
#define PATIENCE_FIRST_MS	100
#define STUCK_FIRST_MS	500
#define STUCK_LAST_MS	30000

static void committed(CqrsBatch *batch, const CqrsBatchProgress *progress);
static void failed(CqrsBatch *batch, const CqrsBatchProgress *progress,
				   const ErrorData *error);
static void is_stuck(CqrsBatch *batch, const ErrorData *error);
static void be_patient(CqrsBatch *batch);
static void regain_patience(CqrsBatch *batch,
							const CqrsBatchProgress *progress);
static ListCell *find_tried_out(const CqrsBatch *batch, const CqrsItem *item);
static CqrsItem *first_item(const CqrsBatch *batch);

CqrsBatch *
cqrs_batch_create(CqrsIntake *intake)
{
	CqrsBatch  *batch = MemoryContextAllocZero(TopMemoryContext,
											   sizeof(CqrsBatch));

	batch->intake = intake;
	batch->quota.about = "messages that were received";
	batch->context = AllocSetContextCreate(TopMemoryContext, "cqrs batch",
										   ALLOCSET_DEFAULT_SIZES);
	batch->scratch = AllocSetContextCreate(TopMemoryContext, "cqrs item",
										   ALLOCSET_DEFAULT_SIZES);
	cqrs_batch_run_init();
	return batch;
}

void
cqrs_batch_take(CqrsBatch *batch, CqrsDelivery **deliveries, int n)
{
	MemoryContext caller = MemoryContextSwitchTo(batch->context);

	batch->items = palloc0(sizeof(CqrsItem) * n);
	batch->nitems = n;
	for (int i = 0; i < n; i++)
	{
		CqrsIncoming *message = &batch->items[i].message;

		message->body = deliveries[i]->body;
		message->length = deliveries[i]->length;
		message->message_id = deliveries[i]->message_id;
		message->direct = cqrs_intake_is_direct(batch->intake,
												deliveries[i]->routing_key);
		batch->items[i].redelivered = deliveries[i]->redelivered;
	}
	batch->retry = false;
	MemoryContextSwitchTo(caller);
}

void
cqrs_batch_take_failed(CqrsBatch *batch, List *list)
{
	MemoryContext caller = MemoryContextSwitchTo(batch->context);
	ListCell   *lc;

	batch->items = palloc0(sizeof(CqrsItem) * list_length(list));
	batch->nitems = list_length(list);
	foreach(lc, list)
	{
		const CqrsFailed *from = lfirst(lc);
		CqrsItem   *item = &batch->items[foreach_current_index(lc)];
		char	   *body = MemoryContextAllocHuge(batch->context,
												  from->length + 1);

		item->failed = palloc(sizeof(CqrsFailed));
		*item->failed = *from;
		memcpy(body, from->body, from->length + 1);
		item->message.body = body;
		item->message.length = from->length;
		item->message.message_id = from->message_id != NULL ?
			pstrdup(from->message_id) : NULL;
		item->message.direct = from->direct;
	}
	batch->retry = true;
	batch->retry_since = GetCurrentTimestamp();
	MemoryContextSwitchTo(caller);
}

/* In a transaction: conversions to the database's encoding are looked up. */
void
cqrs_batch_read(CqrsBatch *batch)
{
	MemoryContext caller = CurrentMemoryContext;

	StartTransactionCommand();
	MemoryContextSwitchTo(batch->context);
	for (int i = 0; i < batch->nitems; i++)
		batch->items[i].problem = cqrs_envelope_read(&batch->items[i].message);
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
}

/* The digest must differ between neighbours, and guards no secret. */
bytea *
cqrs_batch_digest(CqrsBatch *batch, int purpose)
{
	const CqrsIncoming *message = &batch->items[0].message;
	uint64		hashes[2];
	bytea	   *digest = MemoryContextAlloc(batch->context,
											VARHDRSZ + sizeof(hashes));

	for (int i = 0; i < lengthof(hashes); i++)
		hashes[i] = hash_bytes_extended((const unsigned char *) message->body,
										(int) message->length,
										lengthof(hashes) * purpose + i);
	SET_VARSIZE(digest, VARHDRSZ + sizeof(hashes));
	memcpy(VARDATA(digest), hashes, sizeof(hashes));
	return digest;
}

void
cqrs_batch_condemn(CqrsBatch *batch)
{
	batch->items[0].problem =
		MemoryContextStrdup(batch->context,
							"the server or the consumer has ended twice while messages were applied, the last time while this message was processed");
}

void
cqrs_batch_step(CqrsBatch *batch)
{
	MemoryContext caller = CurrentMemoryContext;
	CqrsBatchProgress *progress;

	Assert(batch->ndone < batch->nitems);	/* I25 */
	progress = MemoryContextAllocZero(batch->context, sizeof(CqrsBatchProgress));
	pgstat_report_activity(STATE_RUNNING, batch->retry ?
						   "applying failed messages again" :
						   "applying messages");
	cqrs_worker_set_cancellable(true);
	PG_TRY();
	{
		cqrs_batch_run_transaction(batch, progress);
		cqrs_worker_set_cancellable(false);
		committed(batch, progress);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		cqrs_worker_set_cancellable(false);
		error = cqrs_caught_abort(batch->context);
		cqrs_batch_run_end_time_limit();
		cqrs_apply_forget();
		if (!ShutdownRequestPending)
			failed(batch, progress, error);
	}
	PG_END_TRY();
	cqrs_worker_set_cancellable(false);
	(void) cqrs_leftover_remove();
	pfree(progress);
	MemoryContextReset(batch->scratch);
	MemoryContextSwitchTo(caller);
	(void) pgstat_report_stat(batch->ndone == batch->nitems);
	pgstat_report_activity(STATE_IDLE, NULL);
}

void
cqrs_batch_clear(CqrsBatch *batch)
{
	MemoryContextReset(batch->context);
	batch->items = NULL;
	batch->nitems = 0;
	batch->ndone = 0;
	batch->cut = false;
	batch->mode = CQRS_BATCH_MODE_TOGETHER;
	batch->alone = 0;
	batch->tries = 0;
	batch->try_at = 0;
	batch->stuck_since = 0;
	batch->stuck = 0;
}

CqrsBatchStatus
cqrs_batch_status(const CqrsBatch *batch)
{
	if (batch->nitems == 0)
		return CQRS_BATCH_EMPTY;
	if (batch->ndone == batch->nitems || batch->cut)
		return CQRS_BATCH_DONE;
	return batch->stuck_since != 0 ? CQRS_BATCH_STUCK : CQRS_BATCH_WORKING;
}

long
cqrs_batch_wait_ms(const CqrsBatch *batch)
{
	return batch->try_at == 0 ? 0 :
		cqrs_until_within_ms(batch->try_at, STUCK_LAST_MS);
}

TimestampTz
cqrs_batch_stuck_since(const CqrsBatch *batch)
{
	return batch->stuck_since;
}

bool
cqrs_batch_is_retry(const CqrsBatch *batch)
{
	return batch->retry;
}

bool
cqrs_batch_has_failed(CqrsBatch *batch)
{
	bool		has_failed = batch->has_failed;

	batch->has_failed = false;
	return has_failed;
}

bool
cqrs_batch_was_busy(CqrsBatch *batch)
{
	bool		was_busy = batch->was_busy;

	batch->was_busy = false;
	return was_busy;
}

void
cqrs_batch_set_wary(CqrsBatch *batch, bool wary)
{
	batch->wary = wary;
}

void
cqrs_batch_reload(CqrsBatch *batch)
{
	cqrs_once_forget(&batch->logged);
	cqrs_quota_renew(&batch->quota);
}

/*
 * The transaction has committed: its messages are done, and its counts are
 * added.
 */
static void
committed(CqrsBatch *batch, const CqrsBatchProgress *progress)
{
	for (int i = 0; i < progress->ntaken; i++)
		batch->items[progress->taken[i]].done = true;
	batch->ndone += progress->ntaken;
	Assert(batch->ndone <= batch->nitems);	/* I25 */
	batch->has_failed = batch->has_failed || progress->run.wrote_failed;
	batch->was_busy = batch->was_busy || progress->run.busy;
	batch->stuck_since = 0;
	batch->stuck = 0;
	batch->try_at = 0;
	for (int i = 0; i < CQRS_WORKER_MAX_COUNTERS; i++)
	{
		if (progress->run.counts[i] != 0)
			cqrs_worker_count(i, progress->run.counts[i]);
	}
	cqrs_worker_count(CQRS_CONSUMED_BATCHES, 1);
	cqrs_applied_count_commit();

	if (progress->ntaken > 0)
	{
		batch->tries = 0;
		regain_patience(batch, progress);
	}
	batch->cut = batch->retry && batch->ndone > 0 &&
		cqrs_until_after_ms(batch->retry_since, RETRY_MS) == 0;
	if (progress->halted)
		be_patient(batch);
	/* After the culprit, its neighbours are tried ALONE, then SINGLY. */
	if (batch->mode == CQRS_BATCH_MODE_ALONE || batch->mode == CQRS_BATCH_MODE_STORE)
	{
		batch->alone -= progress->ntaken;
		batch->mode = batch->alone > 0 ? CQRS_BATCH_MODE_ALONE : CQRS_BATCH_MODE_SINGLY;
	}
}

/* A transaction has failed: the next one has fewer messages. */
static void
failed(CqrsBatch *batch, const CqrsBatchProgress *progress, const ErrorData *error)
{
	CqrsItem   *item = first_item(batch);
	bool		may_pass;

	/*
	 * If the connection is lost, the error may have come from serving it, and
	 * not from a message.
	 */
	if (cqrs_intake_is_lost(batch->intake))
		return;
	switch (batch->mode)
	{
		case CQRS_BATCH_MODE_TOGETHER:
			batch->mode = CQRS_BATCH_MODE_SINGLY;
			break;
		case CQRS_BATCH_MODE_SINGLY:
			batch->mode = CQRS_BATCH_MODE_ALONE;
			batch->alone = CQRS_BATCH_SINGLY;
			break;
		case CQRS_BATCH_MODE_ALONE:
			cqrs_verdict_describe(error, cqrs_batch_run_is_time_over(progress),
								  &batch->problem);
			may_pass = cqrs_verdict_may_pass(&batch->problem);
			if (may_pass && cqrs_batch_has_patience(batch, item))
			{
				be_patient(batch);
				break;
			}
			if (may_pass)
				cqrs_batch_lose_patience(batch, item);
			batch->counts = cqrs_verdict_counts(&batch->problem);
			batch->mode = CQRS_BATCH_MODE_STORE;
			break;
		case CQRS_BATCH_MODE_STORE:
			is_stuck(batch, error);
			break;
	}
}

/* Not even the failed message can be stored. */
static void
is_stuck(CqrsBatch *batch, const ErrorData *error)
{
	cqrs_worker_set_error(error->message);
	if (batch->stuck_since == 0)
	{
		batch->stuck_since = GetCurrentTimestamp();
		ereport(LOG,
				(errmsg("cqrs consumer cannot commit: %s", error->message),
				 errdetail("Messages wait in the queue until the consumer can commit.")));
	}
	batch->try_at =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									Min(STUCK_FIRST_MS << Min(batch->stuck, 10),
										STUCK_LAST_MS));
	batch->stuck++;
	/* The message may not have been at fault, so it is tried again. */
	batch->mode = CQRS_BATCH_MODE_ALONE;
	batch->alone = Max(batch->alone, 1);
}

/* Whether a message is tried again after an error that may pass. */
bool
cqrs_batch_has_patience(const CqrsBatch *batch, const CqrsItem *item)
{
	return !batch->retry && batch->stuck == 0 && batch->tries < PATIENCE &&
		!cqrs_batch_is_tried_out(batch, item);
}

void
cqrs_batch_lose_patience(CqrsBatch *batch, const CqrsItem *item)
{
	MemoryContext caller;

	if (batch->retry || item->message.cqrs_id == NULL ||
		cqrs_batch_is_tried_out(batch, item))
		return;
	caller = MemoryContextSwitchTo(TopMemoryContext);
	batch->tried_out = lappend(batch->tried_out,
							   pstrdup(item->message.cqrs_id));
	MemoryContextSwitchTo(caller);
}

/* Replicas whose messages were applied have patience again. */
static void
regain_patience(CqrsBatch *batch, const CqrsBatchProgress *progress)
{
	for (int i = 0; i < progress->ntaken && batch->tried_out != NIL; i++)
	{
		const CqrsItem *item = &batch->items[progress->taken[i]];
		ListCell   *lc = item->applied ? find_tried_out(batch, item) : NULL;

		if (lc == NULL)
			continue;
		pfree(lfirst(lc));
		batch->tried_out = list_delete_cell(batch->tried_out, lc);
	}
}

bool
cqrs_batch_is_tried_out(const CqrsBatch *batch, const CqrsItem *item)
{
	return find_tried_out(batch, item) != NULL;
}

/* The cell of the item's replica in the list, or NULL. */
static ListCell *
find_tried_out(const CqrsBatch *batch, const CqrsItem *item)
{
	return item->message.cqrs_id == NULL ? NULL :
		cqrs_strings_find(batch->tried_out, item->message.cqrs_id);
}

/* Wait before the first message is tried again; longer each time. */
static void
be_patient(CqrsBatch *batch)
{
	Assert(batch->tries < PATIENCE || ShutdownRequestPending);	/* I26 */
	batch->try_at =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									PATIENCE_FIRST_MS << 2 * batch->tries);
	batch->tries++;
}

/* The first message that is not done. */
static CqrsItem *
first_item(const CqrsBatch *batch)
{
	for (int i = 0; i < batch->nitems; i++)
	{
		if (!batch->items[i].done)
			return &batch->items[i];
	}
	elog(ERROR, "the batch is done");
}
