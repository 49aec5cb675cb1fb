/*-------------------------------------------------------------------------
 *
 * caught.c
 *	  Errors that are caught: those that end a transaction of a worker, and not
 *	  the process; those that users' functions raise.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/caught.h"

/* Interrupts wait until the transaction is aborted, as in PostgreSQL's own loop. */
ErrorData *
cqrs_caught_abort(MemoryContext context)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	HOLD_INTERRUPTS();
	AbortCurrentTransaction();
	FlushErrorState();
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(context);
	return error;
}

/*
 * PostgreSQL cancels in one place.  Whether a cancel was asked for cannot be
 * looked up any more: that place has reset the flag.
 */
bool
cqrs_caught_is_cancel(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		error->funcname != NULL &&
		strcmp(error->funcname, "ProcessInterrupts") == 0;
}
