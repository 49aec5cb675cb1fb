/*-------------------------------------------------------------------------
 *
 * handle.c
 *	  The handler of a replica, called.
 *
 * A handler writes, so it may be VOLATILE, and no subtransaction is around it:
 * false and null are errors, and what it has written is rolled back with the
 * message.  Inside it cqrs_apply(message) is what would have been done without
 * a handler.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "apply/handle.h"
#include "apply/incoming.h"
#include "replica/handler.h"

static void find_function(CqrsPlan *plan);

void
cqrs_handle_message(CqrsPlan *plan, const CqrsIncoming *message)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum		result;

	if (plan->handler == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" has neither a table nor a handler",
						plan->cqrs_id)));
	if (plan->function.name == NULL)
		find_function(plan);

	InitFunctionCallInfoData(*fcinfo, &plan->function.flinfo, 1, InvalidOid,
							 NULL, NULL);
	fcinfo->args[0].value = cqrs_incoming_to_datum(message);
	fcinfo->args[0].isnull = false;
	result = FunctionCallInvoke(fcinfo);
	if (fcinfo->isnull || !DatumGetBool(result))
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 fcinfo->isnull ?
				 errmsg("handler %s has returned null", plan->handler) :
				 errmsg("handler %s has returned false", plan->handler),
				 errdetail("A handler returns true when it has dealt with the message.")));
}

/*
 * Look up the handler, which then lasts as long as the plan.  Raises an error
 * if there is none.
 */
static void
find_function(CqrsPlan *plan)
{
	MemoryContext caller = MemoryContextSwitchTo(plan->context);

	(void) cqrs_function_find(&plan->function, plan->handler,
							  cqrs_handler_kind(), plan->owner);
	MemoryContextSwitchTo(caller);
}
