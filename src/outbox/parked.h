/*-------------------------------------------------------------------------
 *
 * parked.h
 *	  Parked messages: kept in a table of their own, so that others are sent.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_PARKED_H
#define CQRS_PARKED_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"

#include "outbox/message.h"
#include "outbox/skipped.h"

/* Why a message is parked. */
typedef enum CqrsParkReason
{
	CQRS_PARK_HOOK,				/* a user's function failed to make the
								 * message */
	CQRS_PARK_REFUSED,			/* the broker rejects the message */
	CQRS_PARK_HELD				/* the message's route does not work */
} CqrsParkReason;

/*
 * Park a message of the outbox, unless it was parked before or another
 * transaction is just parking it.  Does not wait for other transactions.
 */
extern CqrsSkip cqrs_parked_move(const CqrsMessage *message,
								 CqrsParkReason reason, const char *error);

/*
 * Park a message that a user's function has failed to make.  Parts of it that
 * could not be made are NULL.  "row" is the text of the deleted row if the
 * message is a DELETE, else NULL.
 */
extern void cqrs_parked_insert(const CqrsMessage *message, const char *error,
							   const char *row);

typedef struct CqrsParked
{
	ItemPointerData tid;
	CqrsMessage message;
	char	   *row;			/* or NULL */
} CqrsParked;

/*
 * All parked messages, as CqrsParked in the order of their ids, in the current
 * context, with tid, message.id and message.cqrs_id only.  A caller that
 * removes some of them must have locked out others.
 */
extern List *cqrs_parked_list(void);

/*
 * Read the rest of a message of that list, in the current context.  Returns
 * false if it is not parked any more.
 */
extern bool cqrs_parked_read(Relation rel, CqrsParked *parked);

/*
 * Rename a column in the rows that are kept with parked messages of a master
 * or, if "to" is NULL, remove it from them.
 */
extern void cqrs_parked_follow(const char *cqrs_id, const char *from,
							   const char *to);

/* Whether a message of a master is parked, or being parked. */
extern bool cqrs_parked_has(const char *cqrs_id);

/* The highest id of a parked message, visible or not; -1 if there is none. */
extern int64 cqrs_parked_max_id(void);

#endif							/* CQRS_PARKED_H */
