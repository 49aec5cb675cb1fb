/*-------------------------------------------------------------------------
 *
 * hook.h
 *	  Users' functions and expressions that take part in making messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_HOOK_H
#define CQRS_HOOK_H

#include "postgres.h"

#include "access/htup.h"
#include "utils/relcache.h"

#include "master/relation.h"
#include "outbox/message.h"

/* The message that hooks are called for; errors in hooks name it. */
typedef struct CqrsHookSubject
{
	const CqrsRelation *relation;
	CqrsMaster *master;
	CqrsSignal	signal;
	const char *key;			/* JSON */
} CqrsHookSubject;

/*
 * Between enter and leave: the rights of a table's owner, pinned settings, and
 * a transaction that is read-only.
 */
typedef struct CqrsHookScope
{
	Oid			role;
	int			security;
	bool		read_only;
	int			guc_level;		/* 0: nothing was changed */
} CqrsHookScope;

/*
 * Enter the scope in which rows of a table are serialized and its hooks are
 * called.  The first function sets the owner's rights only if the table has
 * hooks, the second one always.  After an error the end of the
 * (sub)transaction leaves the scope.
 */
extern void cqrs_hook_enter(CqrsHookScope *scope, Relation rel,
							const CqrsRelation *relation);
extern void cqrs_hook_enter_as_owner(CqrsHookScope *scope,
									 const CqrsRelation *relation);
extern void cqrs_hook_leave(CqrsHookScope *scope);

/* Whether functions or expressions of users take part, for any master. */
extern bool cqrs_hook_any(const CqrsRelation *relation);

/* Raise an error if hooks of a master do not fit. */
extern void cqrs_hook_check(const CqrsRelation *relation, CqrsMaster *master);

/* The same for the functions of settings, if the master's table uses them. */
extern void cqrs_hook_check_settings(const CqrsRelation *relation,
									 const CqrsMaster *master);

/* A row as a value of the type of the table that was registered. */
extern Datum cqrs_hook_row(const CqrsRelation *relation, HeapTuple row);

/* Whether a row matches sync_when.  Rows are of the relation's own layout. */
extern bool cqrs_hook_matches(const CqrsHookSubject *subject, HeapTuple row);

/* Whether the serializer takes many rows at once. */
extern bool cqrs_hook_is_set_wise(const CqrsRelation *relation,
								  CqrsMaster *master);

/* Serialize rows; sets results[] to the objects as JSON. */
extern void cqrs_hook_serialize(const CqrsHookSubject *subject,
								HeapTuple *rows, int nrows, char **results);

/* The JSON for "custom" of a DELETE, or NULL. */
extern char *cqrs_hook_delete_data(const CqrsHookSubject *subject,
								   HeapTuple row);

/* The meta object, as JSON, or NULL for an empty one. */
extern char *cqrs_hook_meta(const CqrsHookSubject *subject, HeapTuple row,
							const CqrsMessage *message);

/* The correlation id of the setting's function, or NULL. */
extern char *cqrs_hook_correlation_id(const CqrsHookSubject *subject,
									  const CqrsMessage *message);

#endif							/* CQRS_HOOK_H */
