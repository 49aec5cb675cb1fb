/*-------------------------------------------------------------------------
 *
 * apply.h
 *	  A message becomes a change of a row, by the rules of revisions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_APPLY_H
#define CQRS_APPLY_H

#include "postgres.h"

#include "apply/envelope.h"
#include "replica/replica.h"

/* The outcome of a message. */
typedef enum CqrsOutcome
{
	CQRS_OUTCOME_INSERTED,
	CQRS_OUTCOME_UPDATED,
	CQRS_OUTCOME_DELETED,
	CQRS_OUTCOME_DUPLICATE,		/* the row has this revision already */
	CQRS_OUTCOME_OUTDATED,		/* the row has a later one */
	CQRS_OUTCOME_ABSENT,		/* a DELETE of a row that is not there */
	CQRS_OUTCOME_IGNORED,		/* a broadcast SYNC, with only_direct_syncs */
	CQRS_OUTCOME_HANDLED,		/* by the handler of a replica */
	CQRS_OUTCOME_REPEATED		/* the handler has handled it already */
} CqrsOutcome;

typedef struct CqrsApplied
{
	CqrsOutcome outcome;
	bool		gap;			/* revisions were left out before this one */
	bool		downgrade;		/* a SYNC below the row's revision */
	bool		unknown_keys;	/* instance_data has keys without a column */
	bool		has_handler;	/* the replica, when its table was locked */
} CqrsApplied;

/*
 * The state of applying, for a transaction: tables that are locked and open,
 * plans, tuple slots.  Lives in the current context of begin(), which must
 * outlive it.
 */
typedef struct CqrsApplier CqrsApplier;

/*
 * Begin and end the applying of messages in the current transaction, with the
 * rights of "owner" and with pinned settings (search_path, TimeZone,
 * DateStyle, IntervalStyle, ...).  All messages until the end are for replicas
 * of that owner.  "owner" must not be InvalidOid, the owner of a replica whose
 * handler is gone: messages of such a replica fail without being applied.
 *
 * The rights stay until the caller has committed: deferred triggers run with
 * them.  cqrs_apply_forget() gives the rights back after the commit.  It must
 * also be called after an abort, which gives back the rights by itself.  It
 * needs no transaction.
 */
extern CqrsApplier *cqrs_apply_begin(Oid owner);
extern void cqrs_apply_end(CqrsApplier *applier);
extern void cqrs_apply_forget(void);

/*
 * Apply a message.  With "whatever_revision", a SAVE is applied even if the
 * row's revision is not below its own.  Raises the error that makes the
 * message fail; the caller has a (sub)transaction to abort.  After the abort
 * of a subtransaction the applier may be used again.
 */
extern void cqrs_apply_message(CqrsApplier *applier,
							   const CqrsReplica *replica,
							   const CqrsIncoming *message,
							   bool whatever_revision, CqrsApplied *applied);

/*
 * Apply a message without calling the handler of the replica, which has a
 * table: for a handler that calls cqrs_apply().
 */
extern void cqrs_apply_by_default(CqrsApplier *applier,
								  const CqrsReplica *replica,
								  const CqrsIncoming *message,
								  CqrsApplied *applied);

/* The applier of the transaction, between begin() and end(), or NULL. */
extern CqrsApplier *cqrs_apply_current(void);

/* The name of an outcome, for example "inserted". */
extern const char *cqrs_apply_outcome_name(CqrsOutcome outcome);

#endif							/* CQRS_APPLY_H */
