/*-------------------------------------------------------------------------
 *
 * former.h
 *	  Masters that are gone, and whose their messages are.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_FORMER_H
#define CQRS_FORMER_H

#include "postgres.h"

/* What is left of the messages of a master. */
typedef enum CqrsRemains
{
	CQRS_REMAINS_NONE,
	CQRS_REMAINS_PENDING,		/* at least one is in the outbox, to be sent */
	CQRS_REMAINS_PARKED			/* at least one is parked, none is pending */
} CqrsRemains;

/* A master is removed: note the owner of its table. */
extern void cqrs_former_note(const char *cqrs_id, Oid owner);

/*
 * A master has been added, and its row written: forget the former one of that
 * name.  Returns the owner that was noted, or InvalidOid.
 */
extern Oid	cqrs_former_forget(const char *cqrs_id);

/*
 * What is left of the messages with a cqrs_id, those of open transactions
 * included.  Reads the whole outbox in the worst case.
 */
extern CqrsRemains cqrs_former_remains(const char *cqrs_id);

#endif							/* CQRS_FORMER_H */
