/*-------------------------------------------------------------------------
 *
 * caught.c
 *	  Errors that are caught: those that end a transaction or a subtransaction,
 *	  and nothing else; those that users' functions raise.
 *
 * Interrupts wait until a transaction is aborted, as in PostgreSQL's own loop.
 * For a subtransaction, PostgreSQL's function has them wait itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "base/caught.h"

static ErrorData *run_in_subtransaction(void (*run) (void *arg), void *arg,
										bool undo);

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

ErrorData *
cqrs_caught_run(void (*run) (void *arg), void *arg)
{
	return run_in_subtransaction(run, arg, false);
}

ErrorData *
cqrs_caught_run_undone(void (*run) (void *arg), void *arg)
{
	return run_in_subtransaction(run, arg, true);
}

static ErrorData *
run_in_subtransaction(void (*run) (void *arg), void *arg, bool undo)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		run(arg);
		if (!undo)
			ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		error = cqrs_caught_copy();
		FlushErrorState();
	}
	PG_END_TRY();
	if (undo || error != NULL)
		RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
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
