/*-------------------------------------------------------------------------
 *
 * caught.c
 *	  An error that ends a transaction of a worker, and not the process.
 *
 * Interrupts wait until the transaction is aborted, as in PostgreSQL's own loop.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/caught.h"

ErrorData *
cqrs_caught_copy(void)
{
	ErrorData  *error = CopyErrorData();

	if (error->message == NULL)
		error->message = pstrdup("missing error text");
	return error;
}

ErrorData *
cqrs_caught_abort(MemoryContext context)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = cqrs_caught_copy();
	HOLD_INTERRUPTS();
	AbortCurrentTransaction();
	FlushErrorState();
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(context);
	return error;
}
