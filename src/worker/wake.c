/*-------------------------------------------------------------------------
 *
 * wake.c
 *	  What a transaction asks of publishers and launcher once it has ended.
 *
 * Asked for by commands and functions, and done when the transaction has
 * ended: before, nobody else could see what it has changed.  A rolled back
 * savepoint takes nothing back; publishers that look in vain cost little.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"

#include "base/shared.h"
#include "worker/wake.h"

static bool wake_at_commit = false;
static bool vacated = false;
static bool rescan_at_commit = false;

static void at_transaction_end(XactEvent event, void *arg);

void
cqrs_wake_init(void)
{
	RegisterXactCallback(at_transaction_end, NULL);
}

void
cqrs_wake_at_commit(void)
{
	/* Taking a slot can fail, and must not once the transaction is committed. */
	(void) cqrs_shared_my_slot();
	wake_at_commit = true;
}

void
cqrs_wake_rescan_at_commit(void)
{
	rescan_at_commit = true;
}

void
cqrs_wake_vacate(void)
{
	vacated = true;
	cqrs_shared_vacate(MyDatabaseId);
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	/* Also when what made them leave was undone, as a whole or in part. */
	if (vacated || (wake_at_commit && event == XACT_EVENT_COMMIT))
		cqrs_shared_want_publisher();
	if (rescan_at_commit && event == XACT_EVENT_COMMIT)
		cqrs_shared_wake_launcher(true);
	wake_at_commit = vacated = false;
	rescan_at_commit = false;
}
