/*-------------------------------------------------------------------------
 *
 * held.c
 *	  cqrs_park_held: parks the messages of a held master.
 *
 * A message keeps the exchange and the routing key that its master had when it
 * was made.  If these can never work, the publisher holds the master (hold.c),
 * and the master stays held until its messages are out of the way.  Here they
 * are copied to cqrs.parked, from where cqrs_retry_parked() sends the rows
 * with the exchange and routing key that the master has now.  The publisher
 * skips them from then on (skipped.c).
 *
 * Pending messages of a former master of the same name are parked as well; whose
 * they are is decided when the master is registered (outbox/former.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/compat.h"
#include "base/objects.h"
#include "capture/commit.h"
#include "master/master.h"
#include "outbox/parked.h"
#include "outbox/scan.h"
#include "outbox/outbox.h"

PG_FUNCTION_INFO_V1(cqrs_park_held);

static Oid	check_may_park(const char *cqrs_id);
static int64 park_all(const char *cqrs_id);

/* cqrs_park_held(cqrs_id text) RETURNS bigint */
Datum
cqrs_park_held(PG_FUNCTION_ARGS)
{
	char	   *cqrs_id = cqrs_master_id_arg(fcinfo, 0);
	Relation	parked;
	Oid			relid;
	int64		count;

	PreventCommandIfReadOnly("cqrs_park_held()");
	relid = check_may_park(cqrs_id);

	/*
	 * Two concurrent calls would park a message twice.  The lock is per
	 * table, as in cqrs_retry_parked(), so that an owner cannot block owners
	 * of other tables.
	 */
	parked = table_open(cqrs_objects_get(false)->parked, RowExclusiveLock);
	LockDatabaseObject(RelationGetRelid(parked), relid, 0,
					   AccessExclusiveLock);
	count = park_all(cqrs_id);
	table_close(parked, NoLock);
	if (count > 0)
		cqrs_commit_note_written();
	else
		(void) cqrs_master_read(cqrs_id, false);
	PG_RETURN_INT64(count);
}

/*
 * Check that the user may park messages of a master: the owner of the table
 * may, and a superuser may even if the master is gone and only its messages
 * are left.  Returns the table's OID, or InvalidOid.
 */
static Oid
check_may_park(const char *cqrs_id)
{
	CqrsMasterRow *row = cqrs_master_read(cqrs_id, superuser());

	if (row != NULL && !cqrs_owns_relation(row->relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE,
					   get_rel_name(row->relid));
	return row != NULL ? row->relid : InvalidOid;
}

/* Park pending messages of a master that are not parked; returns how many. */
static int64
park_all(const char *cqrs_id)
{
	int64		watermark = cqrs_outbox_watermark();
	CqrsOutboxScan *scan = cqrs_scan_begin(watermark + 1, PG_INT64_MAX);
	CqrsMessage message;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cqrs parked message",
												  ALLOCSET_DEFAULT_SIZES);
	int64		count = 0;

	while (cqrs_scan_next(scan, &message))
	{
		MemoryContext caller;

		CHECK_FOR_INTERRUPTS();
		if (strcmp(message.cqrs_id, cqrs_id) != 0)
			continue;
		caller = MemoryContextSwitchTo(context);

		/*
		 * If the publisher is parking the message at this moment, the message
		 * is left to the publisher.
		 */
		if (cqrs_parked_move(&message, CQRS_PARK_HELD,
							 "parked by cqrs_park_held()") == CQRS_SKIP_ADDED)
			count++;
		MemoryContextSwitchTo(caller);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
	cqrs_scan_end(scan);
	return count;
}
