/*-------------------------------------------------------------------------
 *
 * apply_sql.c
 *	  The SQL functions that apply a message.
 *
 * Handlers call cqrs_apply() with their message, and owners with any.  It
 * calls no handler: it does what is done by default, in the transaction of its
 * caller.  Inside the consumer it works with the consumer's applier, though
 * with rights and settings of its own: the handler may have changed those.
 * cqrs.deliver() does what the consumer does, handler included.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "apply/apply.h"
#include "apply/incoming.h"
#include "apply/plan.h"
#include "apply/settings.h"
#include "base/compat.h"

PG_FUNCTION_INFO_V1(cqrs_sql_apply);
PG_FUNCTION_INFO_V1(cqrs_sql_deliver);

static const CqrsReplica *find_replica(const char *cqrs_id);
static text *apply_as_owner(Oid owner, const CqrsIncoming *message,
							bool by_default);

/* cqrs_apply(message cqrs.message) RETURNS text */
Datum
cqrs_sql_apply(PG_FUNCTION_ARGS)
{
	CqrsIncoming message;
	const CqrsReplica *replica;

	PreventCommandIfReadOnly("cqrs_apply()");
	cqrs_incoming_from_datum(PG_GETARG_DATUM(0), &message);
	replica = find_replica(message.cqrs_id);
	if (!OidIsValid(replica->relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" has no table", message.cqrs_id)));
	if (!cqrs_owns_relation(replica->relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE,
					   get_rel_name(replica->relid));
	PG_RETURN_TEXT_P(apply_as_owner(replica->owner, &message, true));
}

/* cqrs.deliver(message cqrs.message) RETURNS text: for superusers */
Datum
cqrs_sql_deliver(PG_FUNCTION_ARGS)
{
	CqrsIncoming message;

	PreventCommandIfReadOnly("cqrs.deliver()");
	cqrs_incoming_from_datum(PG_GETARG_DATUM(0), &message);
	PG_RETURN_TEXT_P(apply_as_owner(find_replica(message.cqrs_id)->owner,
									&message, false));
}

static const CqrsReplica *
find_replica(const char *cqrs_id)
{
	const CqrsReplica *replica = cqrs_replica_find(cqrs_id);

	if (replica == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("replica \"%s\" does not exist", cqrs_id)));
	if (!OidIsValid(replica->owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("handler %s of replica \"%s\" does not exist",
						replica->handler, cqrs_id)));
	return replica;
}

/*
 * Apply a message with the rights and settings that it would have in the
 * consumer, whatever those of the caller are; an error restores these, too.
 * Returns the name of the outcome.
 */
static text *
apply_as_owner(Oid owner, const CqrsIncoming *message, bool by_default)
{
	CqrsApplier *applier = cqrs_apply_current();
	bool		own = applier == NULL || applier->owner != owner;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "cqrs applier",
												  ALLOCSET_DEFAULT_SIZES);
	int			level = NewGUCNestLevel();
	CqrsApplied applied;
	Oid			user;
	int			security;

	GetUserIdAndSecContext(&user, &security);
	cqrs_settings_pin(GUC_ACTION_SAVE);
	SetUserIdAndSecContext(owner, security | SECURITY_LOCAL_USERID_CHANGE);

	MemoryContextSwitchTo(context);
	if (own)
		applier = cqrs_plan_create_applier(owner);
	if (by_default)
		cqrs_apply_by_default(applier, find_replica(message->cqrs_id), message,
							  &applied);
	else
		cqrs_apply_message(applier, find_replica(message->cqrs_id), message,
						   false, &applied);
	if (own)
		cqrs_plan_close_all(applier);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);

	SetUserIdAndSecContext(user, security);
	AtEOXact_GUC(false, level);
	return cstring_to_text(cqrs_apply_outcome_name(applied.outcome));
}
