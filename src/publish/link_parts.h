/*-------------------------------------------------------------------------
 *
 * link_parts.h
 *	  Declarations that the parts of the publisher's link to the broker share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LINK_PARTS_H
#define CQRS_LINK_PARTS_H

#include "postgres.h"

#include "utils/hsearch.h"

#include "base/once.h"
#include "broker/session.h"
#include "publish/hold.h"
#include "publish/lane.h"
#include "publish/link_log.h"
#include "publish/window.h"

/* The progress of the holds' probe. */
typedef enum CqrsProbeStep
{
	CQRS_STEP_NONE,				/* nothing */
	CQRS_STEP_DECLARING,		/* its exchange is being declared */
	CQRS_STEP_DECLARED,			/* the message can be sent */
	CQRS_STEP_SENT
} CqrsProbeStep;

struct CqrsLink
{
	const CqrsWorker *worker;
	char	   *identity;
	CqrsWindow *window;
	CqrsHolds  *holds;
	CqrsLinkLog *log;
	CqrsOnce	unbound;		/* masters whose last messages no queue was
								 * bound for */
	bool		unchecked;		/* the master of one was not looked up yet */
	uint32		calls;			/* cqrs_worker_calls() when they were */

	CqrsSession *session;
	bool		blocked;		/* by the broker */
	bool		renew;			/* to be opened anew once all messages in
								 * flight are answered */
	TimestampTz renewed_at;		/* when that was last requested */
	bool		wary;			/* routes are proven with their routing key */
	HTAB	   *proven;			/* the proven routes */
	CqrsProbeStep probe;
	bool		returned;		/* the probe was returned, and cqrs.unroutable
								 * is "keep" */
	TimestampTz probed_at;		/* start of the probe's wait, for an answer or
								 * to begin */
	uint64		failed_at;		/* the session has recovered when
								 * cqrs_window_confirmed_total() reaches this */
	uint64		suspects_end;	/* messages are sent one at a time until
								 * cqrs_window_confirmed_total() reaches this */
	TimestampTz confirmed_at;	/* last sign of progress of the window */
};

/* in link.c */

/* Close the connection, and schedule the next attempt. */
extern void cqrs_link_connection_failed(struct CqrsLink *link,
										CqrsBlame blame, const char *reason);

/* in link_send.c */

/* Whether a message or a probe may be sent now. */
extern bool cqrs_link_may_send(const struct CqrsLink *link);

/* Note that the route of a message works; forget all such notes. */
extern void cqrs_link_set_proven(struct CqrsLink *link, const CqrsOutgoing *message);
extern void cqrs_link_forget_proven(struct CqrsLink *link);

/* in link_answer.c */

/* Handle an event that is neither NONE nor FAILED. */
extern void cqrs_link_handle_event(struct CqrsLink *link, const CqrsEvent *event,
								   const CqrsFailure *failure);

/* Hold the master of a message.  This may free the message. */
extern void cqrs_link_hold_master(struct CqrsLink *link, const CqrsOutgoing *message,
								  const char *reason);

#endif							/* CQRS_LINK_PARTS_H */
