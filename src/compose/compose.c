/*-------------------------------------------------------------------------
 *
 * compose.c
 *	  From what has become of a row to the messages of its masters.
 *
 * resolve.c finds out what has become of a row: changed, deleted, to be sent
 * again.  Here each master of the table makes its message of the row, or none:
 * sync_when is evaluated, the row is serialized (instance_data.c), the hooks
 * are called.  Messages go to the outbox in the order of the calls.
 *
 * A message is made in two steps, with a draft between them: start_draft()
 * finds out whether there is a message, and makes instance_data;
 * finish_draft() makes what is derived from instance_data.  A serializer that
 * takes many rows at once runs between the two steps.  The drafts of its
 * master wait in a queue, and all drafts made after them wait behind, until
 * the queue has BATCH_ROWS drafts or the rows of another table begin.
 *
 * An error of a hook fails the transaction, unless the master has on_error
 * "park".  Then the hook runs in a subtransaction, and if it fails the message
 * is parked.  (Hooks cannot write, so the subtransaction needs no transaction
 * id.)  Errors that doom the whole transaction are rethrown.
 *
 * Memory: a draft that does not have to wait lives in the caller's context,
 * which is reset for each row; waiting drafts live in "cqrs drafts".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/caught.h"
#include "base/error_context.h"
#include "base/guc.h"
#include "compose/compose.h"
#include "compose/hook.h"
#include "compose/instance_data.h"
#include "outbox/parked.h"

/* Rows that a set-wise serializer gets at once. */
#define BATCH_ROWS	1000
#define BATCH_BYTES	(4 * 1024 * 1024)

/* A message that is being made. */
typedef struct Draft
{
	CqrsMaster *master;
	CqrsHookSubject subject;
	CqrsMessage message;		/* instance_data NULL: not serialized yet */
	HeapTuple	row;			/* for hooks */
	const CqrsRow *before;		/* NULL: new to replicas; while it starts */
	const CqrsRow *after;
	bool		unfinished;		/* was not serialized when it was queued */
	bool		alone;			/* serializing many rows has failed */
} Draft;

struct CqrsComposer
{
	MemoryContext context;		/* holds all of this */
	CqrsOutboxWriter *writer;	/* NULL until the first message */
	int64		nmessages;
	const char *correlation_id; /* cqrs.correlation_id at the beginning, which
								 * hooks can change; NULL: none */

	Relation	rel;			/* NULL: none entered */
	const CqrsRelation *relation;
	CqrsHookScope scope;

	MemoryContext queue_context;	/* NULL until the first draft waits */
	List	   *queue;			/* of Draft */
	Size		queue_bytes;	/* of rows */
};

/* A step in which hooks are called. */
typedef bool (*Step) (CqrsComposer *composer, Draft *draft);

/* A step that may fail. */
typedef struct Attempt
{
	CqrsComposer *composer;
	Draft	   *draft;
	Step		step;
	bool		result;
} Attempt;

static void compose(CqrsComposer *composer, CqrsMaster *master,
					CqrsSignal signal, const char *queue,
					const CqrsRow *before, const CqrsRow *after);
static bool attempt(CqrsComposer *composer, Draft *draft, Step step);
static bool attempt_or_error(CqrsComposer *composer, Draft *draft, Step step,
							 char **error);
static void do_step(void *arg);
static void error_context(void *arg);
static bool make_draft(CqrsComposer *composer, Draft *draft);
static void serialize_fields(CqrsComposer *composer, Draft *draft);
static bool start_draft(CqrsComposer *composer, Draft *draft);
static bool start_deleted(CqrsComposer *composer, Draft *draft);
static bool finish_draft(CqrsComposer *composer, Draft *draft);
static void enqueue(CqrsComposer *composer, const Draft *draft);
static void flush_queue(CqrsComposer *composer);
static bool serialize_one(CqrsComposer *composer, Draft *draft);
static void serialize_waiting(CqrsComposer *composer, Draft *first);
static bool serialize_all(CqrsComposer *composer, Draft *first);
static void write_message(CqrsComposer *composer, const CqrsMessage *message);
static void park(CqrsComposer *composer, Draft *draft, const char *error);

CqrsComposer *
cqrs_compose_begin(void)
{
	CqrsComposer *composer = palloc0(sizeof(CqrsComposer));

	composer->context = CurrentMemoryContext;
	if (cqrs_correlation_id[0] != '\0')
		composer->correlation_id = pstrdup(cqrs_correlation_id);
	return composer;
}

int64
cqrs_compose_end(CqrsComposer *composer)
{
	cqrs_compose_leave(composer);
	if (composer->writer != NULL)
		cqrs_outbox_end(composer->writer);
	return composer->nmessages;
}

void
cqrs_compose_draw_batch(CqrsComposer *composer)
{
	if (composer->rel != NULL)
		flush_queue(composer);
	if (composer->writer != NULL)
		cqrs_outbox_draw_batch(composer->writer);
}

void
cqrs_compose_enter(CqrsComposer *composer, Relation rel,
				   const CqrsRelation *relation)
{
	Assert(composer->rel == NULL);
	composer->rel = rel;
	composer->relation = relation;
	cqrs_hook_enter(&composer->scope, rel, relation);
}

void
cqrs_compose_leave(CqrsComposer *composer)
{
	if (composer->rel == NULL)
		return;
	flush_queue(composer);
	cqrs_hook_leave(&composer->scope);
	composer->rel = NULL;
}

void
cqrs_compose_saved(CqrsComposer *composer, const CqrsRow *before,
				   const CqrsRow *after)
{
	ListCell   *lc;

	foreach(lc, composer->relation->masters)
		cqrs_compose_master_saved(composer, lfirst(lc), before, after);
}

void
cqrs_compose_master_saved(CqrsComposer *composer, CqrsMaster *master,
						  const CqrsRow *before, const CqrsRow *after)
{
	if (master->skip_unchanged && before != NULL &&
		cqrs_row_same_fields(composer->rel, master, before, after))
		return;
	compose(composer, master, CQRS_SIGNAL_SAVE, NULL, before, after);
}

void
cqrs_compose_deleted(CqrsComposer *composer, const CqrsRow *first,
					 const CqrsRow *last)
{
	ListCell   *lc;

	foreach(lc, composer->relation->masters)
		cqrs_compose_master_deleted(composer, lfirst(lc), first, last);
}

void
cqrs_compose_master_deleted(CqrsComposer *composer, CqrsMaster *master,
							const CqrsRow *first, const CqrsRow *last)
{
	compose(composer, master, CQRS_SIGNAL_DELETE, NULL, first, last);
}

void
cqrs_compose_resent(CqrsComposer *composer, CqrsMaster *master,
					const char *queue, const CqrsRow *row)
{
	compose(composer, master, CQRS_SIGNAL_SYNC, queue, NULL, row);
}

void
cqrs_compose_again(CqrsComposer *composer, const CqrsMessage *message)
{
	flush_queue(composer);
	write_message(composer, message);
}

/* Make the message of a master, if it has one. */
static void
compose(CqrsComposer *composer, CqrsMaster *master, CqrsSignal signal,
		const char *queue, const CqrsRow *before, const CqrsRow *after)
{
	Draft		draft = {
		.master = master,.message = master->message,
		.before = before,.after = after
	};
	const CqrsRow *row = signal == CQRS_SIGNAL_DELETE ? before : after;
	StringInfoData key;

	if (!master->produce)
		return;

	initStringInfo(&key);
	cqrs_serialize_key(&key, composer->rel, composer->relation, row);
	draft.row = row->tuple;
	draft.message.signal = signal;
	draft.message.instance_pk = key.data;
	draft.message.queue = queue;
	draft.subject.relation = composer->relation;
	draft.subject.master = master;
	draft.subject.signal = signal;
	draft.subject.key = key.data;

	if (attempt(composer, &draft, make_draft))
	{
		if (composer->queue != NIL || draft.message.instance_data == NULL)
			enqueue(composer, &draft);
		else
			write_message(composer, &draft.message);
	}
}

/*
 * Do a step.  False if the step returns false, or has failed and the message
 * is parked.
 */
static bool
attempt(CqrsComposer *composer, Draft *draft, Step step)
{
	char	   *error = NULL;
	bool		result;

	if (!draft->master->parks)
		return step(composer, draft);
	result = attempt_or_error(composer, draft, step, &error);
	if (error != NULL)
		park(composer, draft, error);
	return result;
}

/* Do a step in a subtransaction; if it fails, set *error and return false. */
static bool
attempt_or_error(CqrsComposer *composer, Draft *draft, Step step, char **error)
{
	Attempt		it = {.composer = composer,.draft = draft,.step = step};
	ErrorData  *failure = cqrs_caught_run(do_step, &it);

	if (failure == NULL)
		return it.result;
	if (failure->sqlerrcode == ERRCODE_QUERY_CANCELED ||
		ERRCODE_TO_CATEGORY(failure->sqlerrcode) == ERRCODE_TRANSACTION_ROLLBACK)
		ReThrowError(failure);
	*error = failure->message;
	return false;
}

static void
do_step(void *arg)
{
	Attempt    *it = arg;

	it->result = it->step(it->composer, it->draft);
}

/*
 * Both steps of a draft, if it need not wait for a serializer in between.
 * False if there is no message.
 */
static bool
make_draft(CqrsComposer *composer, Draft *draft)
{
	if (!start_draft(composer, draft))
		return false;
	return draft->message.instance_data == NULL ||
		finish_draft(composer, draft);
}

/*
 * Find out whether there is a message, and serialize the row, unless the
 * serializer takes many rows at once.
 */
static bool
start_draft(CqrsComposer *composer, Draft *draft)
{
	CqrsMaster *master = draft->master;

	if (draft->message.signal == CQRS_SIGNAL_DELETE)
		return start_deleted(composer, draft);

	if (!cqrs_hook_matches(&draft->subject, draft->after->tuple))
	{
		if (!master->leave_deletes || draft->before == NULL)
			return false;
		draft->message.signal = draft->subject.signal = CQRS_SIGNAL_DELETE;
		draft->row = draft->before->tuple;
		return start_deleted(composer, draft);
	}

	serialize_fields(composer, draft);
	if (master->serializer != NULL &&
		!cqrs_hook_is_set_wise(composer->relation, master))
		return serialize_one(composer, draft);
	return true;
}

/* Previous values, and the row where there is no serializer. */
static void
serialize_fields(CqrsComposer *composer, Draft *draft)
{
	CqrsMaster *master = draft->master;
	ErrorContextCallback callback;
	StringInfoData buf;

	cqrs_error_context_push(&callback, error_context, &draft->message);
	if (draft->message.signal == CQRS_SIGNAL_SAVE && master->tracks)
	{
		initStringInfo(&buf);
		cqrs_serialize_previous(&buf, composer->rel, master, draft->before,
								draft->after);
		draft->message.previous_data = buf.data;
	}
	if (master->serializer == NULL)
	{
		initStringInfo(&buf);
		cqrs_serialize_row(&buf, composer->rel, master, draft->after);
		draft->message.instance_data = buf.data;
	}
	cqrs_error_context_pop(&callback);
}

/* A line that names the message, as errors of hooks have it (hook.c). */
static void
error_context(void *arg)
{
	const CqrsMessage *message = arg;

	errcontext("%s of master \"%s\", key %s",
			   cqrs_signal_name(message->signal), message->cqrs_id,
			   message->instance_pk);
	if (geterrcode() == ERRCODE_PROGRAM_LIMIT_EXCEEDED)
		errhint("The JSON of a row and its message can have 1 GB at most.");
}

/*
 * Replicas can have the row if it matched sync_when in the state that they
 * know.  A row whose last state matches is deleted as well: an unneeded DELETE
 * does no harm, and django-cqrs looks at the last state.
 */
static bool
start_deleted(CqrsComposer *composer, Draft *draft)
{
	if (!cqrs_hook_matches(&draft->subject, draft->before->tuple) &&
		(draft->after == draft->before ||
		 !cqrs_hook_matches(&draft->subject, draft->after->tuple)))
		return false;
	draft->message.instance_data =
		cqrs_instance_data_deleted(&draft->subject, draft->row, draft->before,
								   draft->after);
	return true;
}

/* Fill in what is derived from the message itself. */
static bool
finish_draft(CqrsComposer *composer, Draft *draft)
{
	draft->message.correlation_id = composer->correlation_id;
	if (composer->correlation_id == NULL)
		draft->message.correlation_id =
			cqrs_hook_correlation_id(&draft->subject, &draft->message);
	draft->message.meta = cqrs_hook_meta(&draft->subject, draft->row,
										 &draft->message);
	return true;
}

/* Copy a draft to the end of the queue. */
static void
enqueue(CqrsComposer *composer, const Draft *draft)
{
	MemoryContext caller;
	Draft	   *copy;

	if (composer->queue_context == NULL)
		composer->queue_context = AllocSetContextCreate(composer->context,
														"cqrs drafts",
														ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(composer->queue_context);
	copy = palloc(sizeof(Draft));
	*copy = *draft;
	copy->before = copy->after = NULL;
	copy->unfinished = draft->message.instance_data == NULL;
	copy->row = heap_copytuple(draft->row);
	cqrs_message_copy_texts(&copy->message);
	copy->subject.key = copy->message.instance_pk;
	composer->queue = lappend(composer->queue, copy);
	composer->queue_bytes += copy->row->t_len;
	MemoryContextSwitchTo(caller);

	if (list_length(composer->queue) >= BATCH_ROWS ||
		composer->queue_bytes >= BATCH_BYTES)
		flush_queue(composer);
}

/* Finish the drafts that wait, and write them in their order. */
static void
flush_queue(CqrsComposer *composer)
{
	MemoryContext caller;
	ListCell   *lc;

	if (composer->queue == NIL)
		return;

	caller = MemoryContextSwitchTo(composer->queue_context);
	foreach(lc, composer->queue)
	{
		Draft	   *draft = lfirst(lc);

		if (draft->message.instance_data == NULL && !draft->alone)
			serialize_waiting(composer, draft);
		if (draft->message.instance_data == NULL &&
			!attempt(composer, draft, serialize_one))
			continue;
		if (draft->unfinished && !attempt(composer, draft, finish_draft))
			continue;
		write_message(composer, &draft->message);
	}
	MemoryContextSwitchTo(caller);

	MemoryContextReset(composer->queue_context);
	composer->queue = NIL;
	composer->queue_bytes = 0;
}

/*
 * Serialize the drafts that wait for the serializer of the same master as
 * "first", in one call.  If the call fails and messages are parked, mark each
 * draft to be serialized alone: only some of the rows may be at fault.
 */
static void
serialize_waiting(CqrsComposer *composer, Draft *first)
{
	char	   *error = NULL;
	ListCell   *lc;

	if (!first->master->parks)
	{
		(void) serialize_all(composer, first);
		return;
	}
	if (attempt_or_error(composer, first, serialize_all, &error))
		return;
	foreach(lc, composer->queue)
	{
		Draft	   *draft = lfirst(lc);

		draft->alone |= draft->master == first->master;
	}
}

/*
 * Step: serialize all drafts that wait for the serializer of the same master
 * as "first".
 */
static bool
serialize_all(CqrsComposer *composer, Draft *first)
{
	int			capacity = list_length(composer->queue);
	HeapTuple  *rows = palloc(sizeof(HeapTuple) * capacity);
	Draft	  **drafts = palloc(sizeof(Draft *) * capacity);
	char	  **results = palloc(sizeof(char *) * capacity);
	int			nrows = 0;
	ListCell   *lc;

	foreach(lc, composer->queue)
	{
		Draft	   *draft = lfirst(lc);

		if (draft->master != first->master ||
			draft->message.instance_data != NULL)
			continue;
		drafts[nrows] = draft;
		rows[nrows++] = draft->row;
	}
	cqrs_instance_data_serialize(&first->subject, composer->rel, rows, nrows,
								 results);
	for (int i = 0; i < nrows; i++)
		drafts[i]->message.instance_data = results[i];
	return true;
}

/* Step: serialize one draft that waits. */
static bool
serialize_one(CqrsComposer *composer, Draft *draft)
{
	char	   *result;

	cqrs_instance_data_serialize(&draft->subject, composer->rel, &draft->row, 1,
								 &result);
	draft->message.instance_data = result;
	return true;
}

/* Store a message, which is complete, in the outbox. */
static void
write_message(CqrsComposer *composer, const CqrsMessage *message)
{
	MemoryContext caller = MemoryContextSwitchTo(composer->context);
	ErrorContextCallback callback;

	if (composer->writer == NULL)
		composer->writer = cqrs_outbox_begin();
	cqrs_error_context_push(&callback, error_context,
							unconstify(CqrsMessage *, message));
	cqrs_outbox_append(composer->writer, message);
	composer->nmessages++;
	cqrs_error_context_pop(&callback);
	MemoryContextSwitchTo(caller);
}

/* Park the message of a draft whose hook has failed. */
static void
park(CqrsComposer *composer, Draft *draft, const char *error)
{
	MemoryContext caller = MemoryContextSwitchTo(composer->context);
	StringInfoData row = {0};

	if (composer->writer == NULL)
		composer->writer = cqrs_outbox_begin();
	draft->message.id = cqrs_outbox_draw_id(composer->writer);
	MemoryContextSwitchTo(caller);

	draft->message.committed_at = GetCurrentTimestamp();
	if (draft->message.signal == CQRS_SIGNAL_DELETE)
	{
		initStringInfo(&row);
		cqrs_serialize_readable(&row, composer->relation->root_desc,
								cqrs_hook_row(composer->relation, draft->row));
	}
	cqrs_parked_insert(&draft->message, error, row.data);
}
