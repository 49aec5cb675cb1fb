/*-------------------------------------------------------------------------
 *
 * handle.c
 *	  The handler of a replica, called.
 *
 * A handler writes, so it may be VOLATILE, and has no subtransaction of its
 * own.  False and null are errors: the changes of the handler are rolled back
 * with the message.  Inside a handler, cqrs_apply(message) applies the message
 * as if there were no handler.
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
	FmgrInfo	flinfo;
	Datum		result;

	if (plan->handler == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" has neither a table nor a handler",
						plan->cqrs_id)));
	if (plan->function.name == NULL)
		find_function(plan);

	/* What it remembers serves one call at a time, and calls may nest. */
	flinfo = plan->function.flinfo;
	plan->function.flinfo.fn_extra = NULL;
	InitFunctionCallInfoData(*fcinfo, &flinfo, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = cqrs_incoming_to_datum(message);
	fcinfo->args[0].isnull = false;
	result = FunctionCallInvoke(fcinfo);
	plan->function.flinfo.fn_extra = flinfo.fn_extra;
	if (fcinfo->isnull || !DatumGetBool(result))
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 fcinfo->isnull ?
				 errmsg("handler %s has returned null", plan->handler) :
				 errmsg("handler %s has returned false", plan->handler),
				 errdetail("A handler must return true when it has handled the message.")));
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
