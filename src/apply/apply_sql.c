/*-------------------------------------------------------------------------
 *
 * apply_sql.c
 *	  The SQL functions that apply a message.
 *
 * Handlers call cqrs_apply() with their message, and owners with any message.
 * cqrs_apply() calls no handler: it applies the message to the table, in the
 * transaction of its caller. cqrs.deliver() does the same as the consumer, and
 * calls handlers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "apply/apply.h"
#include "apply/incoming.h"
#include "apply/on_behalf.h"
#include "base/compat.h"

PG_FUNCTION_INFO_V1(cqrs_sql_apply);
PG_FUNCTION_INFO_V1(cqrs_sql_deliver);

static const char *apply_as_owner(Oid owner, const CqrsIncoming *message,
								  bool by_default);

/* cqrs_apply(message cqrs.message) RETURNS text */
Datum
cqrs_sql_apply(PG_FUNCTION_ARGS)
{
	CqrsIncoming message;
	const CqrsReplica *replica;
	const char *outcome;

	PreventCommandIfReadOnly("cqrs_apply()");
	cqrs_incoming_from_datum(PG_GETARG_DATUM(0), &message);
	replica = cqrs_on_behalf_find(message.cqrs_id);
	if (!OidIsValid(replica->relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" has no table", message.cqrs_id)));
	if (!cqrs_owns_relation(replica->relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE,
					   get_rel_name(replica->relid));
	outcome = apply_as_owner(replica->owner, &message, true);
	PG_RETURN_TEXT_P(cstring_to_text(outcome));
}

/* cqrs.deliver(message cqrs.message) RETURNS text: for superusers */
Datum
cqrs_sql_deliver(PG_FUNCTION_ARGS)
{
	CqrsIncoming message;
	const char *outcome;

	PreventCommandIfReadOnly("cqrs.deliver()");
	cqrs_incoming_from_datum(PG_GETARG_DATUM(0), &message);
	outcome = apply_as_owner(cqrs_on_behalf_find(message.cqrs_id)->owner, &message,
							 false);
	PG_RETURN_TEXT_P(cstring_to_text(outcome));
}

/* Apply a message.  Returns the name of the outcome. */
static const char *
apply_as_owner(Oid owner, const CqrsIncoming *message, bool by_default)
{
	CqrsOnBehalf state;
	CqrsApplied applied;

	cqrs_on_behalf_begin(&state, owner);
	if (by_default)
		cqrs_apply_by_default(state.applier,
							  cqrs_on_behalf_find(message->cqrs_id), message,
							  &applied);
	else
		cqrs_apply_message(state.applier,
						   cqrs_on_behalf_find(message->cqrs_id), message,
						   false, &applied);
	cqrs_on_behalf_end(&state);
	return cqrs_apply_outcome_name(applied.outcome);
}
