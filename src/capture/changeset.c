/*-------------------------------------------------------------------------
 *
 * changeset.c
 *	  What the current transaction has touched: an append-only list of notes.
 *
 * A note is the place of a row's version, an index into the table of targets,
 * and the subtransaction that made it.  Subtransaction ids grow.  So when a
 * subtransaction fails, its notes, and the notes of the subtransactions within
 * it, are the tail of the list.  Targets are not removed; a target without
 * notes does no harm.
 *
 * Notes live in chunks that double in size, up to a limit, in a memory context
 * below TopTransactionContext.  A transaction of one row takes one small
 * chunk, a transaction of ten million rows about 120 MB.  PostgreSQL deletes
 * the context with the transaction; cqrs_changeset_reset() only has to forget
 * it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/ilist.h"
#include "nodes/pg_list.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/compat.h"
#include "capture/changeset.h"

#define FIRST_CHUNK_NOTES	40
#define MAX_CHUNK_NOTES		(64 * 1024)

typedef struct Chunk
{
	int			nnotes;
	int			capacity;
	CqrsNote	notes[FLEXIBLE_ARRAY_MEMBER];
} Chunk;

/* The update of a row, on its way; in the executor's memory for this row. */
typedef struct Update
{
	dlist_node	node;
	MemoryContextCallback callback;
	Oid			relid;
	ItemPointerData tid;		/* of the version that is updated */
} Update;

static MemoryContext context = NULL;
static List *chunks = NIL;		/* of Chunk; none but the first is empty */
static uint64 nnotes = 0;
static CqrsTarget *targets = NULL;
static int	ntargets = 0;
static int	targets_capacity = 0;

static uint64 ndone = 0;		/* all notes up to here are dealt with */
static List *kept = NIL;		/* CqrsNote of rows whose update is to come */
static bool any_done = false;
static dlist_head updates = DLIST_STATIC_INIT(updates);
static bool frozen = false;
static SubTransactionId frozen_in;

static bool has_notes(Oid relid, bool born);
static uint16 find_target(CqrsNoteKind kind, Oid relid, Oid file,
						  const char *cqrs_id, const char *queue);
static const CqrsNote *next_note(CqrsWalk *walk);
static void find_done(void);
static void end_update(void *arg);
static bool same_text(const char *a, const char *b);
static Chunk *chunk_with_room(void);

bool
cqrs_changeset_is_empty(void)
{
	return nnotes == 0;
}

bool
cqrs_changeset_has_pending(void)
{
	CqrsWalk	walk;

	if (nnotes == ndone)
		return false;
	cqrs_changeset_walk(&walk);
	return cqrs_changeset_next(&walk) != NULL;
}

bool
cqrs_changeset_has_notes(Oid relid)
{
	return has_notes(relid, true);
}

bool
cqrs_changeset_has_known_notes(Oid relid)
{
	return has_notes(relid, false);
}

/*
 * Whether rows of a table have been noted and not been dealt with.  Without
 * "born", rows that were born in this transaction do not count.
 */
static bool
has_notes(Oid relid, bool born)
{
	CqrsWalk	walk;
	const CqrsNote *note;

	cqrs_changeset_walk(&walk);
	while ((note = cqrs_changeset_next(&walk)) != NULL)
	{
		const CqrsTarget *target = &targets[note->target];

		if (target->relid == relid && (born || target->kind != CQRS_NOTE_BORN))
			return true;
	}
	return false;
}

void
cqrs_changeset_freeze(void)
{
	if (frozen)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("messages of this transaction are being made already"),
				 errdetail("A function that takes part in making the messages, or one that it calls, would make messages as well.")));
	kept = NIL;
	frozen = true;
	frozen_in = GetCurrentSubTransactionId();
}

void
cqrs_changeset_thaw(void)
{
	frozen = false;
}

uint16
cqrs_changeset_target(CqrsNoteKind kind, Relation rel)
{
	static int	last[2] = {0, 0};
	int			i = frozen ? ntargets : last[kind];

	/* Most changes follow one of the same table. */
	if (i < ntargets && targets[i].kind == kind &&
		targets[i].relid == RelationGetRelid(rel) &&
		targets[i].file == cqrs_compat_relation_file(rel))
		return i;

	last[kind] = find_target(kind, RelationGetRelid(rel),
							 cqrs_compat_relation_file(rel), NULL, NULL);
	return last[kind];
}

uint16
cqrs_changeset_resent_target(Relation rel, const char *cqrs_id,
							 const char *queue)
{
	return find_target(CQRS_NOTE_RESENT, RelationGetRelid(rel),
					   cqrs_compat_relation_file(rel), cqrs_id, queue);
}

CqrsTarget *
cqrs_changeset_get_target(uint16 target)
{
	Assert(target < ntargets);
	return &targets[target];
}

bool
cqrs_changeset_keys_move(void)
{
	for (int i = 0; i < ntargets; i++)
	{
		if (targets[i].keys_move)
			return true;
	}
	return false;
}

void
cqrs_changeset_check_file(const CqrsTarget *target, Relation rel)
{
	if (target->file != cqrs_compat_relation_file(rel))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot publish changes of table \"%s\" that were made before it was rewritten in the same transaction",
						RelationGetRelationName(rel)),
				 errdetail("The rewrite by ALTER TABLE or CLUSTER has moved the changed rows."),
				 errhint("Commit the changes before the table is rewritten, send them with cqrs_flush(), or rewrite the table first.")));
}

int
cqrs_changeset_ntargets(void)
{
	return ntargets;
}

void
cqrs_changeset_note(uint16 target, ItemPointer tid)
{
	Chunk	   *chunk = chunk_with_room();
	CqrsNote   *note = &chunk->notes[chunk->nnotes];

	note->tid = *tid;
	note->target = target;
	note->subid = GetCurrentSubTransactionId();
	chunk->nnotes++;
	nnotes++;
}

void
cqrs_changeset_note_done(uint16 target)
{
	ItemPointerData invalid;
	CommandId	since = GetCurrentCommandId(false);

	/* Invalid by its offset; the block number keeps the command. */
	ItemPointerSet(&invalid, since, InvalidOffsetNumber);
	cqrs_changeset_note(target, &invalid);
	targets[target].tracked_from = since;
	any_done = true;
}

void
cqrs_changeset_begin(uint16 target, CommandId since)
{
	targets[target].is_tracked = true;
	targets[target].first_tracked_from = since;
	targets[target].tracked_from = Max(targets[target].tracked_from, since);
}

void
cqrs_changeset_all_done(void)
{
	int			n = ntargets;
	ListCell   *lc;

	/* Rows that were born have not been touched yet, but may be. */
	for (int i = 0; i < n; i++)
	{
		if (targets[i].kind == CQRS_NOTE_BORN)
			(void) find_target(CQRS_NOTE_TOUCHED, targets[i].relid,
							   targets[i].file, NULL, NULL);
	}
	for (int i = 0; i < ntargets; i++)
		cqrs_changeset_note_done(i);
	ndone = nnotes;

	/* The version that the update makes is noted, too, when it is touched. */
	foreach(lc, kept)
	{
		CqrsNote   *note = lfirst(lc);
		CqrsTarget *target = &targets[note->target];

		target->repeats = true;
		if (target->kind == CQRS_NOTE_BORN)
		{
			/* So the pass that makes DELETEs sees that the row is new. */
			target->keys_move = true;
			targets[find_target(CQRS_NOTE_TOUCHED, target->relid, target->file,
								NULL, NULL)].repeats = true;
		}
		cqrs_changeset_note(note->target, &note->tid);
	}
	kept = NIL;
}

void
cqrs_changeset_keep(const CqrsNote *note)
{
	MemoryContext caller = MemoryContextSwitchTo(context);
	CqrsNote   *copy = palloc(sizeof(CqrsNote));

	*copy = *note;
	kept = lappend(kept, copy);
	MemoryContextSwitchTo(caller);
}

void
cqrs_changeset_begin_update(Relation rel, ItemPointer tid)
{
	Update	   *update = palloc(sizeof(Update));

	update->relid = RelationGetRelid(rel);
	update->tid = *tid;
	update->callback.func = end_update;
	update->callback.arg = update;
	dlist_push_head(&updates, &update->node);
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &update->callback);
}

/* Reset callback of the context that an update is in. */
static void
end_update(void *arg)
{
	dlist_delete(&((Update *) arg)->node);
}

bool
cqrs_changeset_is_updating(Relation rel, ItemPointer tid)
{
	dlist_iter	iter;

	dlist_foreach(iter, &updates)
	{
		Update	   *update = dlist_container(Update, node, iter.cur);

		if (update->relid == RelationGetRelid(rel) &&
			ItemPointerEquals(&update->tid, tid))
			return true;
	}
	return false;
}

void
cqrs_changeset_abort_sub(SubTransactionId subid)
{
	uint64		before = nnotes;

	if (frozen && subid <= frozen_in)
		frozen = false;
	while (nnotes > 0)
	{
		Chunk	   *chunk = llast(chunks);

		while (chunk->nnotes > 0 &&
			   chunk->notes[chunk->nnotes - 1].subid >= subid)
		{
			chunk->nnotes--;
			nnotes--;
		}
		if (chunk->nnotes > 0 || list_length(chunks) == 1)
			break;
		chunks = list_delete_last(chunks);
		pfree(chunk);
	}
	if (any_done && nnotes < before)
		find_done();
	if (nnotes < ndone)
		ndone = 0;
}

void
cqrs_changeset_reset(void)
{
	context = NULL;
	chunks = NIL;
	nnotes = 0;
	ndone = 0;
	targets = NULL;
	ntargets = 0;
	targets_capacity = 0;
	kept = NIL;
	any_done = false;
	frozen = false;
}

void
cqrs_changeset_walk(CqrsWalk *walk)
{
	if (any_done)
		find_done();
	memset(walk, 0, sizeof(*walk));
}

const CqrsNote *
cqrs_changeset_next(CqrsWalk *walk)
{
	const CqrsNote *note;

	while ((note = next_note(walk)) != NULL)
	{
		if (ItemPointerIsValid(&note->tid) &&
			walk->position > targets[note->target].done_before)
			return note;
	}
	return NULL;
}

/* The next note, whether it has been dealt with or not; NULL at the end. */
static const CqrsNote *
next_note(CqrsWalk *walk)
{
	Chunk	   *chunk;

	if (walk->position == nnotes)
		return NULL;

	chunk = list_nth(chunks, walk->chunk);
	if (walk->index == chunk->nnotes)
	{
		chunk = list_nth(chunks, ++walk->chunk);
		walk->index = 0;
	}
	walk->position++;
	return &chunk->notes[walk->index++];
}

/* For each target, find the position and command up to which it is done. */
static void
find_done(void)
{
	CqrsWalk	walk = {0};
	const CqrsNote *note;

	for (int i = 0; i < ntargets; i++)
	{
		targets[i].done_before = 0;
		targets[i].tracked_from = targets[i].first_tracked_from;
	}
	while ((note = next_note(&walk)) != NULL)
	{
		if (ItemPointerIsValid(&note->tid))
			continue;
		targets[note->target].done_before = walk.position;
		targets[note->target].tracked_from = ItemPointerGetBlockNumberNoCheck(&note->tid);
	}
}

/* The target with these properties; it is made if there is none. */
static uint16
find_target(CqrsNoteKind kind, Oid relid, Oid file, const char *cqrs_id,
			const char *queue)
{
	MemoryContext caller;
	CqrsTarget *target;

	if (frozen)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot change table \"%s\" while messages are made",
						get_rel_name(relid)),
				 errdetail("A function that takes part in making the messages, or one that it calls, has changed the table.")));

	/* From the end: what was used last is likely to be used again. */
	for (int i = ntargets - 1; i >= 0; i--)
	{
		target = &targets[i];
		if (target->kind == kind &&
			target->relid == relid && target->file == file &&
			same_text(target->cqrs_id, cqrs_id) &&
			same_text(target->queue, queue))
			return i;
	}

	if (ntargets > PG_UINT16_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many tables of masters changed in one transaction"),
				 errdetail("A transaction can change %d tables of masters at most.",
						   PG_UINT16_MAX + 1),
				 errhint("Change fewer tables in a transaction.")));

	if (context == NULL)
		context = AllocSetContextCreate(TopTransactionContext,
										"cqrs changes",
										ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	if (ntargets == targets_capacity)
	{
		int			capacity = Max(4, targets_capacity * 2);

		targets = targets == NULL ?
			palloc(capacity * sizeof(CqrsTarget)) :
			repalloc(targets, capacity * sizeof(CqrsTarget));
		targets_capacity = capacity;
	}
	target = &targets[ntargets];
	memset(target, 0, sizeof(*target));
	target->kind = kind;
	target->relid = relid;
	target->file = file;
	target->cqrs_id = cqrs_id != NULL ? pstrdup(cqrs_id) : NULL;
	target->queue = queue != NULL ? pstrdup(queue) : NULL;
	MemoryContextSwitchTo(caller);
	return ntargets++;
}

/* NULL is the same as NULL. */
static bool
same_text(const char *a, const char *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return strcmp(a, b) == 0;
}

/* The last chunk, or a new one if that is full. */
static Chunk *
chunk_with_room(void)
{
	MemoryContext caller;
	Chunk	   *chunk = NULL;
	int			capacity = FIRST_CHUNK_NOTES;

	if (chunks != NIL)
	{
		chunk = llast(chunks);
		if (likely(chunk->nnotes < chunk->capacity))
			return chunk;
		capacity = Min(chunk->capacity * 2, MAX_CHUNK_NOTES);
	}

	caller = MemoryContextSwitchTo(context);
	chunk = palloc(offsetof(Chunk, notes) + capacity * sizeof(CqrsNote));
	chunk->nnotes = 0;
	chunk->capacity = capacity;
	chunks = lappend(chunks, chunk);
	MemoryContextSwitchTo(caller);
	return chunk;
}
