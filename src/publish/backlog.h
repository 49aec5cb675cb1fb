/*-------------------------------------------------------------------------
 *
 * backlog.h
 *	  The publisher's dealings with the database.
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
 * Publish what is above the watermark and belongs to that lane, by way of
 * "window"; in a transaction.
 */
extern CqrsBacklog *cqrs_backlog_create(const CqrsWorker *worker,
										CqrsWindow *window, CqrsHolds *holds);

/*
 * Do what is due in the database, in a transaction of its own.  Messages are
 * read only when "connected": before, they would only fill memory.
 */
extern void cqrs_backlog_turn(CqrsBacklog *backlog, bool connected);

/* How long nothing has to be done: 0 for not at all, -1 for ever. */
extern long cqrs_backlog_wait_ms(const CqrsBacklog *backlog, bool connected);

/* Whether a commit would give it anything to do. */
extern bool cqrs_backlog_waits_for_commits(const CqrsBacklog *backlog,
										   bool connected);

/* Whether publishing is paused by cqrs_pause(). */
extern bool cqrs_backlog_paused(const CqrsBacklog *backlog);

/*
 * Whose messages these are: the system, the database, the extension and what
 * cqrs_adopt() has added.  After the first turn.
 */
extern const char *cqrs_backlog_identity(const CqrsBacklog *backlog);

/* Show what is confirmed, to those who wait for it and to the other lanes. */
extern void cqrs_backlog_show_progress(const CqrsBacklog *backlog);

/* Save what is confirmed, at the end. */
extern void cqrs_backlog_finish(CqrsBacklog *backlog);

#endif							/* CQRS_BACKLOG_H */
