/*-------------------------------------------------------------------------
 *
 * verdict.h
 *	  When a failed message is tried again, if ever.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_VERDICT_H
#define CQRS_VERDICT_H

#include "postgres.h"

#include "apply/envelope.h"
#include "consume/failed.h"
#include "replica/replica.h"

/* Why a message has failed. */
typedef struct CqrsProblem
{
	int			code;			/* as in ErrorData */
	char		sqlstate[CQRS_SQLSTATE_BYTES];
	char	   *message;
	char	   *full;			/* with detail and context */
	bool		timed_out;		/* by cqrs.apply_timeout */
} CqrsProblem;

/* Describe an error, in the current context. */
extern void cqrs_verdict_describe(const ErrorData *error, bool timed_out,
								  CqrsProblem *problem);

/*
 * Whether the error may come from the state of the database rather than from
 * the message.
 */
extern bool cqrs_verdict_may_pass(const CqrsProblem *problem);

/*
 * Whether the failure is one of those that "max_retries" limits.  Messages
 * whose failure only the state of the database can have caused are tried
 * without end.  An internal error counts, too, although it may pass: a message
 * whose values are too large for PostgreSQL has nothing else that would end
 * its retries.
 */
extern bool cqrs_verdict_counts(const CqrsProblem *problem);

/*
 * Decide what becomes of a message after "attempts" earlier failures.  With
 * "counts", this failure is one more.  "replica" is NULL if it could not be
 * looked up.  Calls the replica's function "retry" if the current user is
 * the replica's owner, and goes by the replica's settings where that fails.
 */
extern void cqrs_verdict_decide(const CqrsReplica *replica,
								const CqrsIncoming *message, int attempts,
								const CqrsProblem *problem, bool counts,
								CqrsFailedState *state);

#endif							/* CQRS_VERDICT_H */
