/*-------------------------------------------------------------------------
 *
 * apply_sql.c
 *	  The SQL functions that apply a message.
 *
 * Handlers call cqrs_apply() with their message, and owners with any.  It
 * calls no handler: it does what is done by default, in the transaction of its
 * caller.  Inside the consumer it works with the consumer's applier.
 * cqrs.deliver() does what the consumer does, handler included.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "apply/apply.h"
#include "apply/incoming.h"
#include "apply/plan.h"
#include "base/compat.h"

PG_FUNCTION_INFO_V1(cqrs_sql_apply);
PG_FUNCTION_INFO_V1(cqrs_sql_deliver);

static const CqrsReplica *find_replica(const char *cqrs_id);
static void apply_as_owner(const CqrsReplica *replica,
						   const CqrsIncoming *message, bool by_default,
						   CqrsApplied *applied);

/* cqrs_apply(message cqrs.message) RETURNS text */
Datum
cqrs_sql_apply(PG_FUNCTION_ARGS)
{
	CqrsApplier *applier = cqrs_apply_current();
	CqrsIncoming message;
	CqrsApplied applied;
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
	if (applier != NULL && applier->owner == replica->owner)
		cqrs_apply_by_default(applier, replica, &message, &applied);
	else
		apply_as_owner(replica, &message, true, &applied);
	PG_RETURN_TEXT_P(cstring_to_text(cqrs_apply_outcome_name(applied.outcome)));
}

/* cqrs.deliver(message cqrs.message) RETURNS text: for superusers */
Datum
cqrs_sql_deliver(PG_FUNCTION_ARGS)
{
	CqrsIncoming message;
	CqrsApplied applied;

	PreventCommandIfReadOnly("cqrs.deliver()");
	cqrs_incoming_from_datum(PG_GETARG_DATUM(0), &message);
	apply_as_owner(find_replica(message.cqrs_id), &message, false, &applied);
	PG_RETURN_TEXT_P(cstring_to_text(cqrs_apply_outcome_name(applied.outcome)));
}

static const CqrsReplica *
find_replica(const char *cqrs_id)
{
	const CqrsReplica *replica = cqrs_replica_find(cqrs_id);

	if (replica == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("replica \"%s\" does not exist", cqrs_id)));
	return replica;
}

/* With rights and settings for this message; an error restores them, too. */
static void
apply_as_owner(const CqrsReplica *replica, const CqrsIncoming *message,
			   bool by_default, CqrsApplied *applied)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "cqrs applier",
												  ALLOCSET_DEFAULT_SIZES);
	Oid			owner = replica->owner;
	int			level = NewGUCNestLevel();
	CqrsApplier *applier;
	Oid			user;
	int			security;

	GetUserIdAndSecContext(&user, &security);
	cqrs_apply_pin_settings(GUC_ACTION_SAVE);
	SetUserIdAndSecContext(owner, security | SECURITY_LOCAL_USERID_CHANGE);

	MemoryContextSwitchTo(context);
	applier = cqrs_plan_create_applier(owner);
	if (by_default)
		cqrs_apply_by_default(applier, replica, message, applied);
	else
		cqrs_apply_message(applier, replica, message, false, applied);
	cqrs_plan_close_all(applier);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);

	SetUserIdAndSecContext(user, security);
	AtEOXact_GUC(false, level);
}
