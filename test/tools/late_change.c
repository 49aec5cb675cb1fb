/*-------------------------------------------------------------------------
 *
 * late_change.c
 *	  What only other extensions do: a module that runs a command of SQL in a
 *	  callback before the commit, and an error that says nothing.
 *
 * silent_error() raises an error without a message, for
 * test/t/035_silent_errors.pl.  The rest is for test/t/042_late_changes.pl.  late_change(command) chooses the command for
 * the end of the current transaction.  Callbacks run in the reverse order of
 * their registration: the module is loaded before cqrs to be called after it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(late_change);
PG_FUNCTION_INFO_V1(silent_error);

void		_PG_init(void);

static char *command = NULL;	/* in TopTransactionContext */

static void at_transaction_end(XactEvent event, void *arg);

void
_PG_init(void)
{
	RegisterXactCallback(at_transaction_end, NULL);
}

/* late_change(command text) RETURNS void */
Datum
late_change(PG_FUNCTION_ARGS)
{
	command = MemoryContextStrdup(TopTransactionContext,
								  text_to_cstring(PG_GETARG_TEXT_PP(0)));
	PG_RETURN_VOID();
}

/* silent_error() RETURNS void */
Datum
silent_error(PG_FUNCTION_ARGS)
{
	ereport(ERROR, (errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION)));
	PG_RETURN_VOID();
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT && command != NULL)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		SPI_connect();
		SPI_execute(command, false, 0);
		SPI_finish();
		PopActiveSnapshot();
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		command = NULL;
}
