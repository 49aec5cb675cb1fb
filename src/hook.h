/*-------------------------------------------------------------------------
 *
 * hook.h
 *	  Functions of the user's that take part in making messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_HOOK_H
#define CQRS_HOOK_H

#include "postgres.h"

#include "catalog.h"
#include "outbox.h"
#include "serialize.h"

/*
 * Find the meta function "name" (possibly qualified) of a table: an error when
 * it does not exist, has another signature, may change data, or may not be
 * called by "caller".  Returns its oid.
 */
extern Oid	cqrs_hook_find_meta(Oid relid, const char *name, Oid caller);

/* Whether messages of a table involve any function. */
extern bool cqrs_hook_any(const CqrsRelation *relation);

/* The name under which cqrs.master keeps a function. */
extern char *cqrs_hook_qualified_name(Oid function);

/*
 * The meta object of a message, from the master's function or that of
 * cqrs.meta_function; NULL when there is none.  Needs an active snapshot.
 */
extern char *cqrs_hook_meta(Relation rel, CqrsMaster *master,
							const CqrsRow *row, const CqrsMessage *message);

/* The correlation id of a message, or NULL.  Needs an active snapshot. */
extern char *cqrs_hook_correlation_id(Relation rel,
									  const CqrsMessage *message);

#endif							/* CQRS_HOOK_H */
