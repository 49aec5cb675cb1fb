/*-------------------------------------------------------------------------
 *
 * databases.c
 *	  The databases of the server, for the launcher.
 *
 * pg_database is read in a transaction of its own by a process that is
 * connected to no database.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "utils/fmgroids.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"

#include "worker/databases.h"

/* Of a database whose DROP was interrupted; 15.0 has no name for it. */
#define INVALID_LIMIT	(-2)

/* Whether anybody may connect. */
static bool
may_connect(Form_pg_database form)
{
	return form->datallowconn && form->datconnlimit != INVALID_LIMIT;
}

List *
cqrs_databases_read(List **connectable)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *existing = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	*connectable = NIL;
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext transaction = MemoryContextSwitchTo(caller);

		existing = lappend_oid(existing, form->oid);
		if (may_connect(form) && !form->datistemplate)
			*connectable = lappend_oid(*connectable, form->oid);
		MemoryContextSwitchTo(transaction);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return existing;
}

bool
cqrs_databases_is_open(Oid dboid)
{
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		open;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_database_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(dboid));
	scan = systable_beginscan(rel, DatabaseOidIndexId,
							  criticalSharedRelcachesBuilt, NULL, 1, &key);
	tuple = systable_getnext(scan);
	open = HeapTupleIsValid(tuple) &&
		may_connect((Form_pg_database) GETSTRUCT(tuple));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return open;
}
