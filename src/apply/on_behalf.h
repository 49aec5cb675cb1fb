/*-------------------------------------------------------------------------
 *
 * on_behalf.h
 *	  Applying messages in functions that users call.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_ON_BEHALF_H
#define CQRS_ON_BEHALF_H

#include "postgres.h"

#include "apply/apply.h"

/* What to go back to afterwards. */
typedef struct CqrsOnBehalf
{
	CqrsApplier *applier;
	bool		own;			/* the applier is not the consumer's */
	MemoryContext caller;
	MemoryContext context;
	int			guc_level;
	Oid			user;
	int			security;
} CqrsOnBehalf;

/*
 * Begin and end to apply messages with the rights and the settings that they
 * have in the consumer, whatever those of the caller are.  The end of the
 * (sub)transaction restores rights and settings after an error; memory is in
 * a child of the caller's context.
 */
extern void cqrs_on_behalf_begin(CqrsOnBehalf *state, Oid owner);
extern void cqrs_on_behalf_end(CqrsOnBehalf *state);

/*
 * Check deferred constraints now, before the end: later their triggers would
 * run with other rights.  Raises an error if a trigger defers another one again.
 * The constraints are immediate for the rest of the transaction.
 */
extern void cqrs_on_behalf_check_constraints(void);

/* The replica of that name, with an owner, or an error. */
extern const CqrsReplica *cqrs_on_behalf_find(const char *cqrs_id);

#endif							/* CQRS_ON_BEHALF_H */
