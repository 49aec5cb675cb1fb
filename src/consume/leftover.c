/*-------------------------------------------------------------------------
 *
 * leftover.c
 *	  What users' code leaves in the session of the consumer.
 *
 * All owners of replicas share one session.  What triggers and functions of
 * one owner can leave there must not affect those of another owner, nor the
 * consumer: settings (default_transaction_read_only would stop everything),
 * temporary tables (an unqualified name finds them first, and their triggers
 * run with the rights of whoever writes to them), prepared statements, cursors
 * WITH HOLD, advisory locks.  So a session begins anew with each transaction,
 * as after DISCARD ALL, but for the caches of sequences: a sequence with a CACHE
 * would lose values with each transaction, and reading them takes privileges on
 * the sequence.  PostgreSQL refuses LISTEN in a background worker.
 *
 * Temporary objects may be impossible to remove: other objects that depend on
 * them are altered, and may be locked.  Then nothing is applied until the
 * removal succeeds (consumer.c).  Ending the process would not help:
 * PostgreSQL removes temporary objects at its end, and waits for the lock.
 *
 * The consumer's own settings are reset values (worker.c, consumer.c), which
 * stay.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/prepare.h"
#include "storage/lock.h"
#include "utils/guc.h"
#include "utils/portal.h"

#include "base/caught.h"
#include "consume/leftover.h"
#include "worker/worker.h"

/* There may be temporary objects; the last attempt has succeeded. */
static bool temporary = false;
static bool removed = true;

static void remove_all(void);
static void remove_temporary_objects(void);

bool
cqrs_leftover_remove(void)
{
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		remove_all();
		removed = true;
	}
	PG_CATCH();
	{
		const ErrorData *error = cqrs_caught_abort(caller);

		cqrs_worker_set_error(error->message);
		if (removed)
			ereport(LOG,
					(errmsg("cqrs consumer cannot reset its session after code of a replica's owner has run: %s",
							error->message),
					 errdetail("Messages wait in the queue until the session can be reset.")));
		removed = false;
	}
	PG_END_TRY();
	return removed;
}

bool
cqrs_leftover_is_removed(void)
{
	return removed;
}

/* Not in a transaction.  Raises an error if something cannot be removed. */
static void
remove_all(void)
{
	/* The flags are those of the last transaction, until the next one. */
	temporary = temporary ||
		(MyXactFlags & XACT_FLAGS_ACCESSEDTEMPNAMESPACE) != 0;

	PortalHashTableDeleteAll();
	DropAllPreparedStatements();
	LockReleaseAll(USER_LOCKMETHOD, true);
	ResetAllOptions();
	if (temporary)
		remove_temporary_objects();
	temporary = false;
}

static void
remove_temporary_objects(void)
{
	MemoryContext caller = CurrentMemoryContext;

	StartTransactionCommand();
	ResetTempTableNamespace();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
}
