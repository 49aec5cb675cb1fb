/*-------------------------------------------------------------------------
 *
 * hold.h
 *	  Masters that are held: their messages are not sent now.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_HOLD_H
#define CQRS_HOLD_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#include "base/once.h"
#include "publish/window.h"

typedef enum CqrsHoldState
{
	CQRS_HOLD_WAITING,			/* for retry_at, and then for its turn */
	CQRS_HOLD_PROBING,			/* its probe is in flight */
	CQRS_HOLD_CATCHING_UP		/* its probe was taken; the others follow */
} CqrsHoldState;

typedef struct CqrsHold
{
	CqrsHoldState state;
	int64		next_id;		/* messages of the master from this id on are
								 * not, or no longer, in the window */
	uint64		clear_at;		/* when cqrs_window_confirmed_total() is this,
								 * none of the master's messages is in the
								 * window */
	int			failures;		/* how often the master's messages were
								 * refused */
	TimestampTz retry_at;		/* WAITING: not before this */
	bool		logged;			/* the hold was logged; so is its end, then */
	TimestampTz logged_at;		/* when a hold of this master was last logged;
								 * 0: never */
	char		cqrs_id[FLEXIBLE_ARRAY_MEMBER];
} CqrsHold;

typedef struct CqrsHolds
{
	List	   *list;			/* of CqrsHold, in TopMemoryContext */
	struct holds_hash *table;	/* the same, by cqrs_id */
	List	   *ended;			/* holds that have ended, for their logged_at */
	int			nrefused;		/* holds in the list that have failures */

	CqrsHold   *probing;		/* the hold that is PROBING, or NULL */
	CqrsOutgoing *probe;		/* its message, or NULL; if refusal is set, it
								 * is to be parked */
	TimestampTz probe_at;		/* no probe before this */
} CqrsHolds;

/* No holds yet, in TopMemoryContext. */
extern CqrsHolds *cqrs_hold_create(void);

/*
 * Hold a master's messages, from "id" on, until a probe succeeds, because one
 * of them was refused.  Returns false if the master is waiting already.
 */
extern bool cqrs_hold_add(CqrsHolds *holds, const CqrsWindow *window,
						  const char *cqrs_id, int64 id);

/* The same, without delay, because it is not known whether the route works. */
extern void cqrs_hold_add_unproven(CqrsHolds *holds, const CqrsWindow *window,
								   const char *cqrs_id, int64 id);

/*
 * Whether the caller is to log now that a master is held.  Each hold is logged
 * once at most, and each master once a minute at most, if the quota allows it.
 * A hold counts as logged once this has returned true.
 */
extern bool cqrs_hold_should_log(CqrsHolds *holds, const char *cqrs_id,
								 CqrsQuota *quota);

/*
 * Whether a message that has been read has to stay out of the window.  If
 * false, the caller puts the message into the window.
 */
extern bool cqrs_hold_keep(CqrsHolds *holds, const CqrsWindow *window,
						   const char *cqrs_id, int64 id);

/* Have a master wait longer than it did last time. */
extern void cqrs_hold_put_off(CqrsHolds *holds, CqrsHold *hold);

/* End a hold, which is not PROBING. */
extern void cqrs_hold_remove(CqrsHolds *holds, CqrsHold *hold);

/* Whether a hold, or any hold, has something to do now. */
extern bool cqrs_hold_are_due(const CqrsHolds *holds,
							  const CqrsWindow *window);

/* The hold whose first message becomes the next probe, or NULL. */
extern CqrsHold *cqrs_hold_next_probe(const CqrsHolds *holds,
									  const CqrsWindow *window);

/* Make a message the probe.  The holds own the message from now on. */
extern void cqrs_hold_set_probe(CqrsHolds *holds, CqrsHold *hold,
								CqrsOutgoing *message);

/* The probe that is to be sent or is in flight, or NULL. */
extern CqrsOutgoing *cqrs_hold_waiting_probe(const CqrsHolds *holds);

/*
 * The outcome of the probe, whose message is forgotten.  Taken: the master's
 * other messages follow.  Refused: the master is probed again later.  Lost
 * with the connection: the master is probed again at once.
 */
extern void cqrs_hold_probe_taken(CqrsHolds *holds);
extern void cqrs_hold_probe_refused(CqrsHolds *holds);
extern void cqrs_hold_probe_lost(CqrsHolds *holds);

/*
 * The broker rejects the probe because of its content or size, so its message
 * is to be parked; "reason" is copied.  refused() returns that message, or
 * NULL; remove_refused() forgets it once it has been parked.  If it cannot be
 * parked now, the outcome is probe_refused().
 */
extern void cqrs_hold_refuse(CqrsHolds *holds, const char *reason);
extern CqrsOutgoing *cqrs_hold_refused(const CqrsHolds *holds);
extern void cqrs_hold_remove_refused(CqrsHolds *holds);

/* Milliseconds until a hold is due, -1 if none is to become due. */
extern long cqrs_hold_wait_ms(const CqrsHolds *holds);

/* Have all held masters probed without a delay. */
extern void cqrs_hold_retry(CqrsHolds *holds);

/* The lowest id that is held, PG_INT64_MAX if there is none. */
extern int64 cqrs_hold_min_id(const CqrsHolds *holds);

#endif							/* CQRS_HOLD_H */
