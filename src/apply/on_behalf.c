/*-------------------------------------------------------------------------
 *
 * on_behalf.c
 *	  Applying messages in functions that users call.
 *
 * Inside the consumer, in a handler for example, the consumer's applier is
 * used.  Rights and settings are set anew, because the handler may have
 * changed them.
 *
 * Before version 18 of PostgreSQL, deferred triggers run with the rights that
 * hold when they fire: at commit those of the caller, who may be a superuser.  So
 * loads and deletions fire them before the end.  A trigger that fires then could
 * have further ones deferred by SET CONSTRAINTS; PostgreSQL refuses that in a
 * security-restricted operation.  All that are pending fire, those of earlier
 * commands of the caller's transaction too.  cqrs_apply() leaves deferred triggers
 * to the commit, because children may come before their parents.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "apply/on_behalf.h"
#include "apply/plan.h"
#include "apply/settings.h"
#include "base/security.h"

void
cqrs_on_behalf_begin(CqrsOnBehalf *state, Oid owner)
{
	state->applier = cqrs_apply_current();
	state->own = state->applier == NULL || state->applier->owner != owner;
	state->caller = CurrentMemoryContext;
	state->context = AllocSetContextCreate(CurrentMemoryContext,
										   "cqrs applier",
										   ALLOCSET_DEFAULT_SIZES);
	state->guc_level = NewGUCNestLevel();
	GetUserIdAndSecContext(&state->user, &state->security);
	cqrs_settings_pin(GUC_ACTION_SAVE);
	SetUserIdAndSecContext(owner,
						   state->security | SECURITY_LOCAL_USERID_CHANGE |
						   (owner == state->user ? 0 : CQRS_SECURITY_ON_LOAN));
	MemoryContextSwitchTo(state->context);
	if (state->own)
		state->applier = cqrs_plan_create_applier(owner);
}

void
cqrs_on_behalf_end(CqrsOnBehalf *state)
{
	if (state->own)
		cqrs_plan_close_all(state->applier);
	MemoryContextSwitchTo(state->caller);
	MemoryContextDelete(state->context);
	SetUserIdAndSecContext(state->user, state->security);
	AtEOXact_GUC(false, state->guc_level);
}

void
cqrs_on_behalf_check_constraints(void)
{
	ConstraintsSetStmt *statement = makeNode(ConstraintsSetStmt);
	Oid			user;
	int			security;

	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(user, security | SECURITY_RESTRICTED_OPERATION);
	AfterTriggerSetState(statement);
	SetUserIdAndSecContext(user, security);
	pfree(statement);
}

const CqrsReplica *
cqrs_on_behalf_find(const char *cqrs_id)
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
