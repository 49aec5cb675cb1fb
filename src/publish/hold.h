/*-------------------------------------------------------------------------
 *
 * hold.h
 *	  Masters whose messages are not to be sent now.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_HOLD_H
#define CQRS_HOLD_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "publish/window.h"

typedef enum CqrsHoldState
{
	CQRS_HOLD_WAITING,			/* for retry_at, and its turn to probe */
	CQRS_HOLD_PROBING,			/* its probe is the one under way */
	CQRS_HOLD_CATCHING_UP		/* that one was taken; the others follow */
} CqrsHoldState;

typedef struct CqrsHold
{
	CqrsHoldState state;
	int64		next_id;		/* its messages from here on are not in the
								 * window, or were taken out */
	uint64		clear_at;		/* none of it is in the window when so many
								 * are done */
	int			failures;		/* how often its messages were refused */
	TimestampTz retry_at;		/* WAITING: not before this */
	bool		told;			/* logged; then its end is logged, too */
	TimestampTz told_at;		/* when it, or an earlier one of this master,
								 * was logged last; 0: never */
	char		cqrs_id[FLEXIBLE_ARRAY_MEMBER];
} CqrsHold;

typedef struct CqrsHolds
{
	List	   *list;			/* of CqrsHold, in TopMemoryContext */
	struct holds_hash *table;	/* the same, by cqrs_id */
	List	   *ended;			/* those that are over, for their told_at */
	int			nrefused;		/* of the list, with failures */

	CqrsHold   *probing;		/* PROBING, or NULL */
	CqrsOutgoing *probe;		/* its message, or NULL; has refusal set when
								 * it is to be parked */
	TimestampTz probe_at;		/* no probe before this */
} CqrsHolds;

extern CqrsHolds *cqrs_holds_create(void);

/*
 * Hold a master's messages, from "id" on, until a probe succeeds, because one
 * of them was refused.  Returns false when it is waiting already.
 */
extern bool cqrs_holds_add(CqrsHolds *holds, const CqrsWindow *window,
						   const char *cqrs_id, int64 id);

/* The same, because it is not known whether its route works: without delay. */
extern void cqrs_holds_add_unproven(CqrsHolds *holds, const CqrsWindow *window,
									const char *cqrs_id, int64 id);

/*
 * Whether it is to be logged, now, that a master is held: each hold once, and
 * each master once a minute at most.  The caller then does so.
 */
extern bool cqrs_holds_tell(CqrsHolds *holds, const char *cqrs_id);

/*
 * Whether a message that has been read has to stay out of the window, into
 * which it is put otherwise.
 */
extern bool cqrs_holds_keep(CqrsHolds *holds, const CqrsWindow *window,
							const char *cqrs_id, int64 id);

extern void cqrs_holds_remove(CqrsHolds *holds, CqrsHold *hold);

/* Whether something can be done about a hold, or any of them, now. */
extern bool cqrs_holds_are_due(const CqrsHolds *holds,
							   const CqrsWindow *window);

/* The hold whose first message is to be the next probe, or NULL. */
extern CqrsHold *cqrs_holds_next_probe(const CqrsHolds *holds,
									   const CqrsWindow *window);

/* Make a message, which belongs to the holds from now on, the probe. */
extern void cqrs_holds_set_probe(CqrsHolds *holds, CqrsHold *hold,
								 CqrsOutgoing *message);

/* The probe that is to be sent, or is under way; NULL when there is none. */
extern CqrsOutgoing *cqrs_holds_waiting_probe(const CqrsHolds *holds);

/*
 * The probe is taken: the master's other messages follow.  Or it is refused,
 * and tried again later; or the connection is gone, which says nothing.  Its
 * message is forgotten.
 */
extern void cqrs_holds_probe_taken(CqrsHolds *holds);
extern void cqrs_holds_probe_refused(CqrsHolds *holds);
extern void cqrs_holds_probe_lost(CqrsHolds *holds);

/*
 * The broker refuses the probe for what it is, for a reason that is copied: it
 * is to be parked.  That message, or NULL; and that it has been.
 */
extern void cqrs_holds_refuse(CqrsHolds *holds, const char *reason);
extern CqrsOutgoing *cqrs_holds_refused(const CqrsHolds *holds);
extern void cqrs_holds_remove_refused(CqrsHolds *holds);

/* Milliseconds until a hold is due, -1 when there is none to wait for. */
extern long cqrs_holds_wait_ms(const CqrsHolds *holds);

/* Have all probes made without a delay. */
extern void cqrs_holds_retry(CqrsHolds *holds);

/* The lowest id that is held, PG_INT64_MAX when there is none. */
extern int64 cqrs_holds_min_id(const CqrsHolds *holds);

#endif							/* CQRS_HOLD_H */
