/*-------------------------------------------------------------------------
 *
 * backlog.c
 *	  The publisher's work in the database.
 *
 * A turn is one short transaction: check whether the extension still exists
 * and whether publishing is paused, save the watermark, read messages into the
 * window, recycle segments.  A turn does only what is due; if nothing is due,
 * there is no transaction.
 *
 * Whether the database is a copy that is held back (base/home.c) is looked at
 * with each reading, in a snapshot that is not older: nobody needs to tell.
 *
 * A message that the broker rejects is parked here, by a synchronous commit,
 * before the watermark may pass the message.  After a crash in between the
 * message is both parked and pending; the reader then skips it.  If another
 * transaction is just parking the message, the publisher does not wait for it:
 * the master is held, and the message is tried again later.
 *
 * If there are several publishers, lane 0 saves the watermark of all and
 * recycles.  Each of them also saves it when it ends, so that the last one
 * leaves nothing unsaved.
 *
 * Belongs to the publisher alone; lives in TopMemoryContext.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/guc.h"
#include "base/home.h"
#include "base/objects.h"
#include "base/once.h"
#include "base/timing.h"
#include "outbox/parked.h"
#include "outbox/published.h"
#include "outbox/scan.h"
#include "outbox/outbox.h"
#include "publish/announce.h"
#include "publish/backlog.h"
#include "publish/reader.h"
#include "worker/worker.h"

/* The watermark is saved this often while messages flow. */
#define SAVE_INTERVAL_MS	200
/* Segments are checked this often. */
#define RECYCLE_INTERVAL_MS 1000
/* Holes are checked this often when nothing else happens. */
#define HOLE_INTERVAL_MS	1000
/*
 * The most messages that a part of a turn looks at, so that the broker's
 * answers are read in time.
 */
#define LOOK_TURN			20000

struct CqrsBacklog
{
	const CqrsWorker *worker;
	CqrsWindow *window;
	CqrsHolds  *holds;
	CqrsReader *reader;

	uint32		calls;			/* cqrs_worker_calls() when the catalog was
								 * last looked at */
	bool		paused;
	bool		restored;
	char	   *identity;
	bool		more;			/* the window was full before the outbox ended */
	uint64		commits;		/* of the slot, when the outbox was last read */
	TimestampTz read_at;		/* when the outbox was last read */

	int64		saved_watermark;	/* of all lanes; lane 0 only */
	TimestampTz saved_at;
	bool		recycle;		/* the watermark has moved since segments were
								 * last looked at */
	TimestampTz recycled_at;

	CqrsQuota	quota;			/* log messages about parked messages */
};

static bool look_is_due(const CqrsBacklog *backlog);
static bool read_is_due(const CqrsBacklog *backlog, bool connected);
static bool save_is_due(const CqrsBacklog *backlog);
static int64 watermark(const CqrsBacklog *backlog);
static int64 unsaved_watermark(const CqrsBacklog *backlog);
static CqrsOutgoing *refused(const CqrsBacklog *backlog);
static bool park_refused(CqrsBacklog *backlog);
static void remove_refused(CqrsBacklog *backlog);
static void hold_refused(CqrsBacklog *backlog);
static void check_extension(CqrsBacklog *backlog, uint32 calls);
static void read_settings(CqrsBacklog *backlog);
static void look_for_copy(CqrsBacklog *backlog);
static void read_outbox(CqrsBacklog *backlog);
static void save_watermark(CqrsBacklog *backlog);
static bool recycle_is_due(const CqrsBacklog *backlog);
static void recycle_segments(CqrsBacklog *backlog);

CqrsBacklog *
cqrs_backlog_create(const CqrsWorker *worker, CqrsWindow *window,
					CqrsHolds *holds)
{
	CqrsBacklog *backlog = MemoryContextAllocZero(TopMemoryContext,
												  sizeof(CqrsBacklog));

	backlog->worker = worker;
	backlog->window = window;
	backlog->holds = holds;
	backlog->quota.about = "parked messages";
	backlog->saved_watermark = cqrs_outbox_watermark();
	backlog->reader = cqrs_reader_create(worker,
										 cqrs_lane_begin(worker,
														 backlog->saved_watermark),
										 holds, LOOK_TURN);
	/* The first turn has to look at the catalog. */
	cqrs_backlog_reload(backlog);
	backlog->more = true;
	return backlog;
}

void
cqrs_backlog_reload(CqrsBacklog *backlog)
{
	backlog->calls = cqrs_worker_calls(backlog->worker) - 1;
	cqrs_quota_renew(&backlog->quota);
}

bool
cqrs_backlog_paused(const CqrsBacklog *backlog)
{
	return backlog->paused || backlog->restored;
}

bool
cqrs_backlog_restored(const CqrsBacklog *backlog)
{
	return backlog->restored;
}

const char *
cqrs_backlog_identity(const CqrsBacklog *backlog)
{
	return backlog->identity;
}

void
cqrs_backlog_turn(CqrsBacklog *backlog, bool connected)
{
	MemoryContext turn = CurrentMemoryContext;
	bool		read = read_is_due(backlog, connected);
	bool		save = save_is_due(backlog);
	bool		recycle = recycle_is_due(backlog);
	bool		park = refused(backlog) != NULL;
	bool		parked = false;
	uint32		calls = cqrs_worker_calls(backlog->worker);
	bool		look = calls != backlog->calls;

	if (!look && !read && !save && !recycle && !park)
		return;

	pgstat_report_activity(STATE_RUNNING, "reading the outbox");
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());

	check_extension(backlog, calls);
	if (look)
		read_settings(backlog);
	if (look && backlog->worker->number == 0)
		cqrs_announce_masters(backlog->worker);
	backlog->calls = calls;
	if (save)
		save_watermark(backlog);
	if (park)
		parked = park_refused(backlog);
	if (read)
		read_outbox(backlog);
	/* This is last, since its locks are kept until the commit. */
	if (recycle)
		recycle_segments(backlog);

	PopActiveSnapshot();
	CommitTransactionCommand();
	if (parked)
	{
		Assert(!XLogNeedsFlush(XactLastCommitEnd)); /* I10 */
		remove_refused(backlog);
	}
	else if (park)
		hold_refused(backlog);
	MemoryContextSwitchTo(turn);
	(void) pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
}

long
cqrs_backlog_wait_ms(const CqrsBacklog *backlog, bool connected)
{
	long		wait_ms = -1;

	if (look_is_due(backlog) || read_is_due(backlog, connected) ||
		save_is_due(backlog) || recycle_is_due(backlog) ||
		refused(backlog) != NULL)
		return 0;
	if (backlog->recycle)
		wait_ms = cqrs_until_after_ms(backlog->recycled_at,
									  RECYCLE_INTERVAL_MS);
	if (connected && cqrs_reader_has_holes(backlog->reader))
		wait_ms = cqrs_sooner_ms(wait_ms, HOLE_INTERVAL_MS);
	if (connected)
		wait_ms = cqrs_sooner_ms(wait_ms, cqrs_hold_wait_ms(backlog->holds));
	if (unsaved_watermark(backlog) != backlog->saved_watermark)
		wait_ms = cqrs_sooner_ms(wait_ms,
								 cqrs_until_after_ms(backlog->saved_at,
													 SAVE_INTERVAL_MS));
	return wait_ms;
}

void
cqrs_backlog_show_progress(const CqrsBacklog *backlog)
{
	int64		min_id = cqrs_reader_min_unconfirmed(backlog->reader,
													 backlog->window);
	uint64		unconfirmed = 0;

	if (!backlog->more)
		unconfirmed = min_id == PG_INT64_MAX ? PG_UINT64_MAX :
			cqrs_batch_of(min_id);
	cqrs_published_set_progress(backlog->worker->slot, backlog->worker->number,
								unconfirmed, backlog->commits);
	cqrs_lane_set_watermark(backlog->worker, watermark(backlog));
}

void
cqrs_backlog_finish(CqrsBacklog *backlog)
{
	const CqrsObjects *objects;

	cqrs_lane_set_watermark(backlog->worker, watermark(backlog));
	if (backlog->worker->count == 1 &&
		watermark(backlog) == backlog->saved_watermark)
		return;

	StartTransactionCommand();
	objects = cqrs_objects_get(true);
	if (objects != NULL && objects->extension == backlog->worker->extension)
	{
		int64		saved;
		int64		reached;

		/*
		 * Of lanes that end at the same time, the last one has the highest
		 * watermark.
		 */
		LockRelationOid(objects->watermark, ShareUpdateExclusiveLock);
		saved = cqrs_outbox_watermark();
		reached = cqrs_lane_watermark(backlog->worker, saved);
		if (reached > saved)
			cqrs_outbox_set_watermark(reached);
	}
	CommitTransactionCommand();
}

bool
cqrs_backlog_waits_for_commits(const CqrsBacklog *backlog, bool connected)
{
	return connected &&
		cqrs_window_unsent(backlog->window) <= cqrs_confirm_window / 2 &&
		cqrs_window_has_room(backlog->window);
}

/* Whether somebody has asked for a look at the catalog. */
static bool
look_is_due(const CqrsBacklog *backlog)
{
	return backlog->calls != cqrs_worker_calls(backlog->worker);
}

/* Whether there is room in the window, and something new to read. */
static bool
read_is_due(const CqrsBacklog *backlog, bool connected)
{
	if (!cqrs_backlog_waits_for_commits(backlog, connected))
		return false;
	return backlog->more ||
		cqrs_hold_are_due(backlog->holds, backlog->window) ||
		backlog->commits != cqrs_published_commits(backlog->worker->slot) ||
		(cqrs_reader_has_holes(backlog->reader) &&
		 cqrs_until_after_ms(backlog->read_at,
							 HOLE_INTERVAL_MS) == 0);
}

/* Whether this lane has a watermark to save, and may save it again. */
static bool
save_is_due(const CqrsBacklog *backlog)
{
	return unsaved_watermark(backlog) != backlog->saved_watermark &&
		cqrs_until_after_ms(backlog->saved_at, SAVE_INTERVAL_MS) == 0;
}

/* The watermark of this lane. */
static int64
watermark(const CqrsBacklog *backlog)
{
	return cqrs_reader_watermark(backlog->reader, backlog->window);
}

/*
 * The watermark that this lane saves.  Lane 0 saves the lowest of all lanes.
 */
static int64
unsaved_watermark(const CqrsBacklog *backlog)
{
	if (backlog->worker->number != 0)
		return backlog->saved_watermark;
	return backlog->worker->count == 1 ? watermark(backlog) :
		cqrs_lane_watermark(backlog->worker, backlog->saved_watermark);
}

/* A message that is to be parked, or NULL. */
static CqrsOutgoing *
refused(const CqrsBacklog *backlog)
{
	CqrsOutgoing *message = cqrs_window_refused(backlog->window);

	return message != NULL ? message : cqrs_hold_refused(backlog->holds);
}

/* Returns false if another transaction is parking the message, too. */
static bool
park_refused(CqrsBacklog *backlog)
{
	CqrsOutgoing *outgoing = refused(backlog);
	CqrsOutboxScan *scan = cqrs_scan_begin(outgoing->id, outgoing->id);
	CqrsMessage message;
	CqrsSkip	skip;

	/* Without its row the message cannot be parked and would be lost. */
	if (!cqrs_scan_next(scan, &message))
		elog(ERROR, "message " INT64_FORMAT " is not in the outbox",
			 outgoing->id);
	skip = cqrs_parked_move(&message, CQRS_PARK_REFUSED, outgoing->refusal);
	cqrs_scan_end(scan);
	if (skip == CQRS_SKIP_BUSY)
		return false;
	ForceSyncCommit();
	if (cqrs_quota_take(&backlog->quota))
		ereport(LOG,
				(errmsg("a message of master \"%s\" is parked: %s",
						outgoing->cqrs_id, outgoing->refusal)));
	return true;
}

/* Forget the message, which has been parked. */
static void
remove_refused(CqrsBacklog *backlog)
{
	if (cqrs_window_refused(backlog->window) != NULL)
		cqrs_window_remove_refused(backlog->window);
	else
		cqrs_hold_remove_refused(backlog->holds);
}

/*
 * Have the message, which could not be parked, sent again later, so that other
 * masters are published meanwhile.
 */
static void
hold_refused(CqrsBacklog *backlog)
{
	CqrsOutgoing *message = cqrs_window_refused(backlog->window);

	if (message != NULL)
	{
		char	   *cqrs_id = pstrdup(message->cqrs_id);
		int64		id = message->id;

		(void) cqrs_hold_add(backlog->holds, backlog->window, cqrs_id, id);
		/* This frees the message. */
		cqrs_window_withdraw(backlog->window, cqrs_id, id);
	}
	else
		cqrs_hold_probe_refused(backlog->holds);
}

/*
 * End the process if the extension was dropped, or dropped and created again.
 * "calls" was read before the catalog.
 */
static void
check_extension(CqrsBacklog *backlog, uint32 calls)
{
	const CqrsObjects *objects = cqrs_objects_get(true);

	if (objects != NULL && objects->extension == backlog->worker->extension)
		return;
	if (objects == NULL)
		cqrs_worker_unwant(backlog->worker, calls);
	proc_exit(1);
}

/* The row of cqrs.publisher: whether publishing is paused, and the identity. */
static void
read_settings(CqrsBacklog *backlog)
{
	Relation	rel = table_open(cqrs_objects_get(false)->publisher,
								 AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0,
										  NULL);
	HeapTuple	tuple = systable_getnext(scan);
	StringInfoData identity;

	backlog->paused = false;
	initStringInfo(&identity);
	appendStringInfo(&identity, UINT64_FORMAT "-%u-%u", GetSystemIdentifier(),
					 MyDatabaseId, backlog->worker->extension);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, 1, RelationGetDescr(rel),
										 &isnull);

		backlog->paused = DatumGetBool(value);
		value = heap_getattr(tuple, 2, RelationGetDescr(rel), &isnull);
		if (!isnull)
			appendStringInfo(&identity, "-%s", TextDatumGetCString(value));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	look_for_copy(backlog);

	if (backlog->identity == NULL ||
		strcmp(backlog->identity, identity.data) != 0)
		backlog->identity = MemoryContextStrdup(TopMemoryContext,
												identity.data);
}

/* Look whether the masters are another database's.  Needs a transaction. */
static void
look_for_copy(CqrsBacklog *backlog)
{
	bool		restored = cqrs_home_is_copy();

	if (restored && !backlog->restored && backlog->worker->number == 0)
		ereport(LOG,
				(errmsg("cqrs publisher holds messages back"),
				 errdetail("Masters of this database were restored from a dump, or came with a template."),
				 errhint("If this database is to publish, call cqrs_resume().")));
	backlog->restored = restored;
}

/* Read what is visible now into the window; nothing in a copy. */
static void
read_outbox(CqrsBacklog *backlog)
{
	/*
	 * Set before reading, so that a commit meanwhile has the outbox read
	 * again.
	 */
	backlog->commits = cqrs_published_commits(backlog->worker->slot);
	backlog->read_at = GetCurrentTimestamp();
	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());
	look_for_copy(backlog);
	backlog->more = backlog->restored ||
		cqrs_reader_read(backlog->reader, backlog->window);
}

/* In a transaction: save the watermark of all lanes, if it has changed. */
static void
save_watermark(CqrsBacklog *backlog)
{
	int64		reached = unsaved_watermark(backlog);

	Assert(reached >= backlog->saved_watermark);	/* I7 */
	if (reached != backlog->saved_watermark)
		cqrs_outbox_set_watermark(reached);
	backlog->saved_watermark = reached;
	cqrs_lane_note_saved(backlog->worker, reached);
	backlog->saved_at = GetCurrentTimestamp();
	backlog->recycle = true;
}

/*
 * Whether to look for segments to empty, some time after the watermark has
 * moved.
 */
static bool
recycle_is_due(const CqrsBacklog *backlog)
{
	return backlog->recycle &&
		cqrs_until_after_ms(backlog->recycled_at,
							RECYCLE_INTERVAL_MS) == 0;
}

/* In a transaction, as its last step: empty segments that are published. */
static void
recycle_segments(CqrsBacklog *backlog)
{
	bool		idle = cqrs_window_bytes(backlog->window) == 0 &&
	!backlog->more && backlog->saved_watermark == watermark(backlog);

	backlog->recycled_at = GetCurrentTimestamp();
	cqrs_skipped_forget(backlog->saved_watermark);
	backlog->recycle = !cqrs_outbox_recycle(backlog->saved_watermark, idle);
}
