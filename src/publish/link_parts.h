/*-------------------------------------------------------------------------
 *
 * link_parts.h
 *	  What the parts of the publisher's link to the broker share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LINK_PARTS_H
#define CQRS_LINK_PARTS_H

#include "postgres.h"

#include "utils/hsearch.h"

#include "broker/session.h"
#include "publish/hold.h"
#include "publish/lane.h"
#include "publish/link_log.h"
#include "publish/window.h"

/* What has become of the probe of the holds. */
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

	CqrsSession *session;
	bool		blocked;		/* by the broker */
	bool		renew;			/* to be opened anew once all is answered */
	TimestampTz renewed_at;		/* when that was last so */
	bool		wary;			/* a route needs its routing key for proof */
	HTAB	   *proven;			/* routes that are */
	CqrsProbeStep probe;
	bool		returned;		/* it was, and cqrs.unroutable is "keep" */
	TimestampTz probed_at;		/* since when the probe waits, for an answer
								 * or to begin */
	uint64		failed_at;		/* failures of the session are over when so
								 * many are done */
	uint64		suspects_end;	/* until so many are done, one at a time */
	TimestampTz confirmed_at;	/* last sign of progress of the window */
};

/* in link.c */

/* Give up the connection, and put the next attempt off. */
extern void cqrs_link_connection_failed(struct CqrsLink *link,
										CqrsBlame blame, const char *reason);

/* in link_send.c */

/* Whether there is something that may be sent now. */
extern bool cqrs_link_may_send(const struct CqrsLink *link);

/* The route of a message works; and that of no message is known to. */
extern void cqrs_link_set_proven(struct CqrsLink *link, const CqrsOutgoing *message);
extern void cqrs_link_forget_proven(struct CqrsLink *link);

/* in link_answer.c */

/* Deal with an event that is neither NONE nor FAILED. */
extern void cqrs_link_handle_event(struct CqrsLink *link, const CqrsEvent *event,
								   const CqrsFailure *failure);

/* Hold the master of a message, which may be gone then. */
extern void cqrs_link_hold_master(struct CqrsLink *link, const CqrsOutgoing *message,
								  const char *reason);

#endif							/* CQRS_LINK_PARTS_H */
