/*-------------------------------------------------------------------------
 *
 * parked.h
 *	  Messages that are put aside, lest they hold up others.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_PARKED_H
#define CQRS_PARKED_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "storage/itemptr.h"

#include "outbox/message.h"

/* Why a message is parked. */
typedef enum CqrsParkReason
{
	CQRS_PARK_HOOK,				/* a user's function failed to make it */
	CQRS_PARK_REFUSED,			/* the broker does not take it */
	CQRS_PARK_HELD				/* its route does not work */
} CqrsParkReason;

/*
 * Park a message; what was not made of it is NULL.  "row" is the text of the
 * row of a DELETE that could not be made, or NULL.
 */
extern void cqrs_parked_insert(const CqrsMessage *message,
							   CqrsParkReason reason, const char *error,
							   const char *row);

typedef struct CqrsParked
{
	ItemPointerData tid;
	CqrsMessage message;
	char	   *row;			/* or NULL */
} CqrsParked;

/*
 * All parked messages, CqrsParked, by id, in the current context.  A caller
 * who removes some has locked others out.
 */
extern List *cqrs_parked_read_all(void);

/*
 * Have the rows that are kept with parked messages of a master follow a column
 * that was renamed or, where "to" is NULL, dropped.
 */
extern void cqrs_parked_follow(const char *cqrs_id, const char *from,
							   const char *to);

/* The highest id of a parked message, whoever parked it; -1: there is none. */
extern int64 cqrs_parked_max_id(void);

/*
 * The ids above "id" of messages that are parked, in ascending order and in
 * TopMemoryContext; returns their number.
 */
extern int	cqrs_parked_above(int64 id, int64 **ids);

/* Whether these have "id" among them. */
extern bool cqrs_parked_has(const int64 *ids, int nids, int64 id);

#endif							/* CQRS_PARKED_H */
