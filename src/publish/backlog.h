/*-------------------------------------------------------------------------
 *
 * backlog.h
 *	  The publisher's work in the database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_BACKLOG_H
#define CQRS_BACKLOG_H

#include "postgres.h"

#include "publish/hold.h"
#include "publish/lane.h"
#include "publish/window.h"

typedef struct CqrsBacklog CqrsBacklog;

/*
 * Prepare to publish the messages above the watermark that belong to the
 * worker's lane, by way of "window".  Needs a transaction.
 */
extern CqrsBacklog *cqrs_backlog_create(const CqrsWorker *worker,
										CqrsWindow *window, CqrsHolds *holds);

/* The settings have changed: look at the catalog in the next turn. */
extern void cqrs_backlog_reload(CqrsBacklog *backlog);

/*
 * Do what is due in the database, in a transaction of its own.  Messages are
 * read only if "connected": without a connection they would only fill memory.
 */
extern void cqrs_backlog_turn(CqrsBacklog *backlog, bool connected);

/* Milliseconds until something is due: 0 if it is now, -1 if nothing is. */
extern long cqrs_backlog_wait_ms(const CqrsBacklog *backlog, bool connected);

/* Whether a commit with messages would give the backlog anything to do. */
extern bool cqrs_backlog_waits_for_commits(const CqrsBacklog *backlog,
										   bool connected);

/*
 * Whether nothing is to be published: because of cqrs_pause(), or because the
 * database is restored.
 */
extern bool cqrs_backlog_paused(const CqrsBacklog *backlog);

/* Whether it is a copy that waits for cqrs_resume() (base/home.h). */
extern bool cqrs_backlog_restored(const CqrsBacklog *backlog);

/*
 * The identity that the messages have: made of the system, the database, the
 * extension and what cqrs_adopt() has added.  To be called after the first
 * turn.
 */
extern const char *cqrs_backlog_identity(const CqrsBacklog *backlog);

/*
 * Show the progress in shared memory, for waiting backends and other lanes.
 */
extern void cqrs_backlog_show_progress(const CqrsBacklog *backlog);

/* Save the watermark when the process ends. */
extern void cqrs_backlog_finish(CqrsBacklog *backlog);

#endif							/* CQRS_BACKLOG_H */
