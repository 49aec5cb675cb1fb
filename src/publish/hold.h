/*-------------------------------------------------------------------------
 *
 * hold.h
 *	  Masters whose messages the broker does not take now.
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
	CQRS_HOLD_WAITING,			/* for retry_at */
	CQRS_HOLD_PROBING,			/* one message is under way, to see */
	CQRS_HOLD_CATCHING_UP		/* that one was taken; the others follow */
} CqrsHoldState;

typedef struct CqrsHold
{
	CqrsHoldState state;
	int64		next_id;		/* its messages from here on have not been put
								 * into the window, or were taken out */
	int64		probe_id;		/* PROBING: the message under way */
	int			failures;		/* probes that have failed */
	TimestampTz retry_at;		/* WAITING: not before this */
	bool		told;			/* logged; then its end is logged, too */
	TimestampTz told_at;		/* when it, or an earlier one of this master,
								 * was logged last; 0: never */
	char		cqrs_id[FLEXIBLE_ARRAY_MEMBER];
} CqrsHold;

typedef struct CqrsHolds
{
	List	   *list;			/* of CqrsHold, in TopMemoryContext */
	List	   *ended;			/* those that are over, for their told_at */
} CqrsHolds;

extern CqrsHolds *cqrs_holds_create(void);

/*
 * Hold a master's messages, from "id" on, until a probe succeeds.  Returns
 * false when it is waiting already.
 */
extern bool cqrs_holds_add(CqrsHolds *holds, const char *cqrs_id, int64 id);

/*
 * Whether it is to be logged, now, that a master is held: each hold once, and
 * each master once a minute at most.  The caller then does so.
 */
extern bool cqrs_holds_tell(CqrsHolds *holds, const char *cqrs_id);

/* Whether a message has to stay out of the window. */
extern bool cqrs_holds_keep(const CqrsHolds *holds, const char *cqrs_id,
							int64 id);

extern void cqrs_holds_remove(CqrsHolds *holds, CqrsHold *hold);

/* Whether something can be done about a hold now. */
extern bool cqrs_hold_is_due(const CqrsHold *hold, const CqrsWindow *window);
extern bool cqrs_holds_are_due(const CqrsHolds *holds,
							   const CqrsWindow *window);

/* Milliseconds until a hold is due, -1 when there is none to wait for. */
extern long cqrs_holds_wait_ms(const CqrsHolds *holds);

/* Have all probes made at once. */
extern void cqrs_holds_retry(CqrsHolds *holds);

/* The lowest id that is held, PG_INT64_MAX when there is none. */
extern int64 cqrs_holds_min_id(const CqrsHolds *holds);

#endif							/* CQRS_HOLD_H */
