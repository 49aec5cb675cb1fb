/*-------------------------------------------------------------------------
 *
 * leftover.c
 *	  What users' code leaves in the session of the consumer.
 *
 * All owners of replicas share one session.  What triggers and functions of one
 * of them can leave there must not be met by those of another one, nor by the
 * consumer: settings (default_transaction_read_only would stop everything),
 * temporary tables (an unqualified name finds them first, and their triggers
 * run with the rights of whoever writes to them), prepared statements, cursors
 * WITH HOLD, advisory locks.  So a session begins anew with each transaction,
 * as after DISCARD ALL.  PostgreSQL refuses LISTEN in a background worker.
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

#include "consume/leftover.h"

static void remove_temporary_objects(void);

void
cqrs_leftover_remove(void)
{
	/* The flags are those of the last transaction, until the next one. */
	bool		temporary = (MyXactFlags & XACT_FLAGS_ACCESSEDTEMPNAMESPACE) != 0;

	PortalHashTableDeleteAll();
	DropAllPreparedStatements();
	LockReleaseAll(USER_LOCKMETHOD, true);
	ResetAllOptions();
	if (temporary)
		remove_temporary_objects();
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
