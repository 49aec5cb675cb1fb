/*-------------------------------------------------------------------------
 *
 * consumer.c
 *	  The worker that turns the messages of a queue into rows.
 *
 * A turn (worker.c) has three parts:
 *
 *	  desk		what cqrs.consumer and cqrs.replica say (desk.c)
 *	  intake	the broker: connect, receive, acknowledge (intake.c)
 *	  batch		one transaction with what has arrived (batch.c)
 *
 * Nothing is acknowledged before it is committed on disk, and with a
 * synchronous standby there as well: the worker's synchronous_commit is never
 * below "on".  While a shutdown is requested nothing is acknowledged, since
 * that ends the wait for a standby early.
 *
 * Failed messages that are due form a batch of their own, one after each
 * batch of new ones.
 *
 * A message that crashes the server.  cqrs.consumer says whether a consumer
 * runs.  If it says so when a consumer starts, the last consumer did not end
 * in order, and the new one is wary.  It tries messages one by one.  Before it
 * reads a message, it commits a digest of the message as the suspect; before
 * it tries the message, it commits another digest.  A message that was the
 * suspect already becomes a dead letter, unread or untried.  The transaction
 * that applies or stores a message clears the suspect.  The consumer stops
 * being wary when a message comes that was not delivered before, and no failed
 * message is due.
 *
 * If nothing can be committed for GIVE_UP_MS, if a write to cqrs.consumer
 * fails, or if the session cannot be reset (leftover.c), the connection is
 * closed, so that it does not time out in the middle of work.  It stays closed
 * until cqrs.consumer can be written to and the session is reset.
 *
 * After any other ERROR the process is started again, and the broker delivers
 * again what was not acknowledged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "base/objects.h"
#include "base/timing.h"
#include "consume/batch.h"
#include "consume/consumer.h"
#include "consume/consumer_state.h"
#include "consume/desk.h"
#include "consume/handled.h"
#include "consume/inbox.h"
#include "consume/intake.h"
#include "consume/leftover.h"
#include "worker/worker.h"

#define GIVE_UP_MS			60000
/* How often a database that cannot commit is tried. */
#define PROBE_INTERVAL_MS	5000

/* What a wary consumer is about to do with a message. */
typedef enum Purpose
{
	TO_APPLY,
	TO_READ
} Purpose;

typedef struct Consumer
{
	CqrsInbox  *inbox;
	CqrsIntake *intake;
	CqrsBatch  *batch;
	CqrsDesk   *desk;

	uint64		connection;		/* by which the batch came */
	uint64		last_tag;		/* of the batch */
	bool		redelivered;	/* the first message of the batch was */
	bool		retried;		/* the last batch was of failed messages */

	bool		running;		/* cqrs.consumer says that a consumer runs */
	bool		wary;
	bytea	   *suspect;		/* of the last consumer; NULL: none */
	bool		condemned;		/* the batch is that message, not to be tried */
	bool		vetted;			/* wary: the batch may be tried */

	bool		gave_up;		/* nothing could be committed */
	TimestampTz probed_at;
	bool		dropped;		/* the queue is gone, and the row is to follow */
} Consumer;

static const int nconsumers = 1;

static bool consumer_is_wanted(void);
static bool consumer_set_up(CqrsWorker *worker);
static void consumer_turn(CqrsWorker *worker);
static bool consumer_listens(CqrsWorker *worker);
static void consumer_wait(CqrsWorker *worker, CqrsWait *wait);
static void consumer_finish(CqrsWorker *worker);
static void drop(CqrsWorker *worker);
static void leave(CqrsWorker *worker);
static CqrsIntakeGoal goal_of(const Consumer *consumer);
static void apply_messages(Consumer *consumer);
static bool may_begin(const Consumer *consumer);
static bool retry_is_due(const Consumer *consumer);
static void begin_batch(Consumer *consumer);
static void begin_retries(Consumer *consumer);
static bool vet(Consumer *consumer);
static void set_wary(Consumer *consumer, bool wary);
static bool condemns(Consumer *consumer, Purpose purpose);
static bool leave_word(Consumer *consumer, Purpose purpose);
static bool is_written(Consumer *consumer, const char *failure);
static void give_up(Consumer *consumer);
static void end_batch(Consumer *consumer);
static void handle_stuck(Consumer *consumer);
static void show_state(const Consumer *consumer);

static const CqrsWorkerClass consumer_class = {
	.name = "consumer",
	.count = &nconsumers,
	.states = cqrs_consumer_state_names,
	.counters = cqrs_consumer_state_counters,
	.wait_event = CQRS_WAIT_CONSUMER,
	.durable_commits = true,
	.first_gauge = CQRS_CONSUMED_HIGHEST_COUNT,
	.is_wanted = consumer_is_wanted,
	.set_up = consumer_set_up,
	.turn = consumer_turn,
	.listens = consumer_listens,
	.wait = consumer_wait,
	.finish = consumer_finish
};

void
cqrs_consumer_init(void)
{
	cqrs_kind_register(CQRS_WORKER_CONSUMER, &consumer_class);
}

static bool
consumer_is_wanted(void)
{
	/*
	 * The publisher, which calls this, does not need the table, and must not
	 * wait for a lock.
	 */
	if (!ConditionalLockRelationOid(cqrs_objects_get(false)->consumer,
									AccessShareLock))
		return true;
	return cqrs_seat_read() != NULL;
}

static bool
consumer_set_up(CqrsWorker *worker)
{
	Consumer   *consumer = palloc0(sizeof(Consumer));

	consumer->desk = cqrs_desk_create(worker);
	if (consumer->desk->seat == NULL)
		return false;

	/* Nobody sends heartbeats during a statement, so waits are bounded. */
	SetConfigOption("lock_timeout", "5s", PGC_SUSET, PGC_S_OVERRIDE);

	/*
	 * If the consumer closes the circle of a deadlock, it is the victim; see
	 * limit_lock_waits() for the other case.
	 */
	SetConfigOption("deadlock_timeout", "100ms", PGC_SUSET, PGC_S_OVERRIDE);
	cqrs_worker_ensure_durable();

	consumer->inbox = cqrs_inbox_create();
	consumer->intake = cqrs_intake_create(consumer->inbox);
	consumer->batch = cqrs_batch_create(consumer->intake);
	consumer->running = consumer->desk->seat->running;
	if (consumer->desk->seat->suspect != NULL)
		consumer->suspect =
			(bytea *) pg_detoast_datum_copy((struct varlena *) consumer->desk->seat->suspect);
	set_wary(consumer, consumer->running);
	cqrs_intake_configure(consumer->intake, consumer->desk->seat,
						  consumer->desk->bindings);
	worker->state = consumer;
	return true;
}

static void
consumer_turn(CqrsWorker *worker)
{
	Consumer   *consumer = worker->state;

	if (worker->reloaded)
	{
		cqrs_worker_ensure_durable();
		cqrs_intake_reload(consumer->intake);
		cqrs_batch_reload(consumer->batch);
		cqrs_desk_reload(consumer->desk);
	}
	if (cqrs_desk_turn(consumer->desk))
	{
		if (consumer->desk->seat == NULL)
			leave(worker);
		consumer->running = consumer->desk->seat->running;
		if (consumer->desk->seat->taking_over)
			consumer->dropped = false;
		cqrs_intake_configure(consumer->intake, consumer->desk->seat,
							  consumer->desk->bindings);
	}
	cqrs_intake_turn(consumer->intake, goal_of(consumer));
	if (consumer->desk->seat->dropping)
		drop(worker);
	else
	{
		consumer->dropped = false;
		cqrs_intake_receive(consumer->intake);
		apply_messages(consumer);
	}
	show_state(consumer);
}

static bool
consumer_listens(CqrsWorker *worker)
{
	return false;
}

static void
consumer_wait(CqrsWorker *worker, CqrsWait *wait)
{
	Consumer   *consumer = worker->state;

	wait->socket = cqrs_intake_socket(consumer->intake, &wait->write);
	wait->timeout_ms =
		cqrs_sooner_ms(cqrs_intake_wait_ms(consumer->intake,
										   goal_of(consumer)),
					   cqrs_desk_wait_ms(consumer->desk));
	if (consumer->gave_up)
		wait->timeout_ms =
			cqrs_sooner_ms(wait->timeout_ms,
						   cqrs_until_after_ms(consumer->probed_at,
											   PROBE_INTERVAL_MS));
	else if (cqrs_batch_status(consumer->batch) != CQRS_BATCH_EMPTY)
		wait->timeout_ms =
			cqrs_sooner_ms(wait->timeout_ms,
						   cqrs_batch_wait_ms(consumer->batch));
	else if (may_begin(consumer))
	{
		if (cqrs_inbox_count(consumer->inbox) > 0)
			wait->timeout_ms = 0;
		wait->timeout_ms =
			cqrs_sooner_ms(wait->timeout_ms,
						   cqrs_desk_retry_wait_ms(consumer->desk));
	}
}

/* Messages that are not acknowledged go back to the queue. */
static void
consumer_finish(CqrsWorker *worker)
{
	Consumer   *consumer = worker->state;

	cqrs_intake_finish(consumer->intake);
	if (consumer->running)
		cqrs_seat_leave();
}

/*
 * Delete the queue, and then the row.  What was not committed is lost with the
 * queue, or is in cqrs.failed.
 */
static void
drop(CqrsWorker *worker)
{
	Consumer   *consumer = worker->state;

	cqrs_batch_clear(consumer->batch);
	if (consumer->gave_up &&
		cqrs_until_after_ms(consumer->probed_at, PROBE_INTERVAL_MS) > 0)
		return;
	consumer->gave_up = false;
	if (!consumer->dropped)
		consumer->dropped = cqrs_intake_delete_queue(consumer->intake);
	if (consumer->dropped && is_written(consumer, cqrs_seat_delete()))
		leave(worker);
}

/* This database consumes nothing any more. */
static void
leave(CqrsWorker *worker)
{
	Consumer   *consumer = worker->state;

	cqrs_intake_finish(consumer->intake);
	cqrs_worker_unwant(worker, consumer->desk->calls);
	proc_exit(0);
}

/* The purpose of the connection. */
static CqrsIntakeGoal
goal_of(const Consumer *consumer)
{
	const CqrsSeat *seat = consumer->desk->seat;

	if (seat->dropping)
		return consumer->gave_up || consumer->dropped ?
			CQRS_INTAKE_CLOSED : CQRS_INTAKE_CONSUMING;
	if (seat->paused)
		return CQRS_INTAKE_PREPARED;
	return consumer->gave_up || cqrs_desk_is_full(consumer->desk) ?
		CQRS_INTAKE_CLOSED : CQRS_INTAKE_CONSUMING;
}

/* One transaction, if there is something to apply. */
static void
apply_messages(Consumer *consumer)
{
	CqrsBatch  *batch = consumer->batch;

	/* The broker delivers again what came by a connection that is gone. */
	if (cqrs_batch_status(batch) != CQRS_BATCH_EMPTY &&
		!cqrs_batch_is_retry(batch) &&
		consumer->connection != cqrs_intake_connection(consumer->intake))
		cqrs_batch_clear(batch);
	handle_stuck(consumer);

	if (cqrs_batch_status(batch) == CQRS_BATCH_EMPTY && may_begin(consumer))
	{
		if (retry_is_due(consumer) &&
			(!consumer->retried || cqrs_inbox_count(consumer->inbox) == 0))
			begin_retries(consumer);
		else if (cqrs_inbox_count(consumer->inbox) > 0)
			begin_batch(consumer);
	}
	if (cqrs_batch_status(batch) == CQRS_BATCH_EMPTY ||
		cqrs_batch_wait_ms(batch) > 0)
		return;
	if (!consumer->vetted && !vet(consumer))
		return;
	Assert(cqrs_batch_is_retry(batch) ||
		   cqrs_intake_state(consumer->intake) == CQRS_CONSUMER_CONSUMING); /* I28 */
	cqrs_batch_step(batch);
	if (cqrs_batch_has_failed(batch))
		cqrs_desk_failed_changed(consumer->desk);
	if (cqrs_batch_was_busy(batch))
		cqrs_desk_put_off_retries(consumer->desk);
	if (cqrs_batch_status(batch) == CQRS_BATCH_DONE && !ShutdownRequestPending)
		end_batch(consumer);
	if (!cqrs_leftover_is_removed())
		give_up(consumer);
}

/* Whether there may be another batch, if there are messages. */
static bool
may_begin(const Consumer *consumer)
{
	return !consumer->desk->seat->paused && !consumer->desk->seat->dropping &&
		!consumer->gave_up && !cqrs_intake_gathers(consumer->intake);
}

/* Whether a failed message is to be tried again now. */
static bool
retry_is_due(const Consumer *consumer)
{
	return cqrs_desk_retry_wait_ms(consumer->desk) == 0;
}

/* Make a batch of what has arrived, at least one message. */
static void
begin_batch(Consumer *consumer)
{
	int			most = consumer->wary ? 1 : CQRS_BATCH_MESSAGES;
	CqrsDelivery **deliveries = palloc(sizeof(CqrsDelivery *) * most);
	int			n = cqrs_inbox_peek(consumer->inbox, deliveries, most,
									CQRS_BATCH_BYTES);

	Assert(!consumer->desk->seat->copied);	/* I31 */
	consumer->connection = cqrs_intake_connection(consumer->intake);
	consumer->last_tag = deliveries[n - 1]->tag;
	consumer->redelivered = deliveries[0]->redelivered;
	consumer->retried = false;
	consumer->vetted = consumer->condemned = false;
	cqrs_batch_take(consumer->batch, deliveries, n);
}

/*
 * Make a batch of failed messages that are due.  It stays empty if none is any
 * more.
 */
static void
begin_retries(Consumer *consumer)
{
	List	   *due = cqrs_desk_due(consumer->desk, consumer->wary);

	consumer->retried = true;
	consumer->vetted = consumer->condemned = false;
	if (due != NIL)
		cqrs_batch_take_failed(consumer->batch, due);
}

/*
 * Before a batch is tried, note in cqrs.consumer that a consumer runs.  A wary
 * consumer also notes the message that it is about to read, and then to apply.
 * Returns false if the note cannot be written; the batch is then given up.
 */
static bool
vet(Consumer *consumer)
{
	if (!consumer->running &&
		!is_written(consumer, cqrs_seat_set_running()))
		return false;
	consumer->running = true;
	if (consumer->wary && !cqrs_batch_is_retry(consumer->batch) &&
		!consumer->redelivered && !retry_is_due(consumer))
	{
		if (!is_written(consumer, cqrs_seat_set_suspect(NULL)))
			return false;
		set_wary(consumer, false);
	}
	if (!condemns(consumer, TO_READ))
	{
		if (!leave_word(consumer, TO_READ))
			return false;
		cqrs_batch_read(consumer->batch);
		if (!condemns(consumer, TO_APPLY) && !leave_word(consumer, TO_APPLY))
			return false;
	}
	consumer->vetted = true;
	return true;
}

static void
set_wary(Consumer *consumer, bool wary)
{
	consumer->wary = wary;
	cqrs_intake_set_wary(consumer->intake, wary);
	cqrs_batch_set_wary(consumer->batch, wary);
}

/*
 * Whether the last consumer did not end in order while it did with the message
 * what this wary consumer is about to do with it.
 */
static bool
condemns(Consumer *consumer, Purpose purpose)
{
	bytea	   *digest;

	if (!consumer->wary || consumer->suspect == NULL)
		return false;
	digest = cqrs_batch_digest(consumer->batch, purpose);
	if (VARSIZE(digest) != VARSIZE(consumer->suspect) ||
		memcmp(digest, consumer->suspect, VARSIZE(digest)) != 0)
		return false;
	cqrs_batch_condemn(consumer->batch);
	consumer->condemned = true;
	return true;
}

/* Returns false if the batch is given up. */
static bool
leave_word(Consumer *consumer, Purpose purpose)
{
	return !consumer->wary ||
		is_written(consumer,
				   cqrs_seat_set_suspect(cqrs_batch_digest(consumer->batch,
														   purpose)));
}

/* Whether a write to cqrs.consumer has succeeded.  If it has not, give up. */
static bool
is_written(Consumer *consumer, const char *failure)
{
	if (failure == NULL)
		return true;
	cqrs_worker_set_error(failure);
	give_up(consumer);
	return false;
}

/*
 * Nothing can be committed.  The next turn closes the connection, and the broker
 * delivers again what was not acknowledged.
 */
static void
give_up(Consumer *consumer)
{
	consumer->gave_up = true;
	consumer->probed_at = GetCurrentTimestamp();
	cqrs_batch_clear(consumer->batch);
}

/* All messages of the batch are committed. */
static void
end_batch(Consumer *consumer)
{
	Assert(cqrs_batch_status(consumer->batch) == CQRS_BATCH_DONE);	/* I24 */
	Assert(!IsTransactionState());	/* I24 */
	if (!cqrs_batch_is_retry(consumer->batch) &&
		consumer->connection == cqrs_intake_connection(consumer->intake))
	{
		cqrs_intake_acknowledge(consumer->intake, consumer->last_tag);
		if (!consumer->redelivered)
			cqrs_handled_turn();
	}
	/* A user may have the dead letter tried again, once. */
	if (consumer->condemned)
		consumer->suspect = NULL;
	cqrs_batch_clear(consumer->batch);
}

/*
 * Give up where nothing could be committed for GIVE_UP_MS.  After that, find
 * out every PROBE_INTERVAL_MS whether something can.
 */
static void
handle_stuck(Consumer *consumer)
{
	CqrsBatch  *batch = consumer->batch;

	if (!consumer->gave_up && cqrs_batch_status(batch) == CQRS_BATCH_STUCK &&
		cqrs_until_after_ms(cqrs_batch_stuck_since(batch), GIVE_UP_MS) == 0)
		give_up(consumer);
	else if (consumer->gave_up &&
			 cqrs_until_after_ms(consumer->probed_at, PROBE_INTERVAL_MS) == 0)
	{
		const char *failure = cqrs_leftover_remove() ? cqrs_seat_probe() :
		NULL;

		if (failure != NULL)
			cqrs_worker_set_error(failure);
		consumer->gave_up = failure != NULL || !cqrs_leftover_is_removed();
		consumer->probed_at = GetCurrentTimestamp();
	}
}

static void
show_state(const Consumer *consumer)
{
	CqrsConsumerState state = cqrs_intake_state(consumer->intake);

	if (consumer->desk->seat->paused)
	{
		/* Before, the state says why there is no queue yet. */
		if (cqrs_intake_is_prepared(consumer->intake))
			state = CQRS_CONSUMER_PAUSED;
	}
	else if (consumer->gave_up ||
			 cqrs_batch_status(consumer->batch) == CQRS_BATCH_STUCK)
		state = CQRS_CONSUMER_BACKING_OFF;
	else if (cqrs_desk_is_full(consumer->desk))
		state = CQRS_CONSUMER_FULL;
	cqrs_worker_set_state(state);
	cqrs_worker_set_counter(CQRS_CONSUMED_BUFFERED,
							cqrs_inbox_count(consumer->inbox));
}
