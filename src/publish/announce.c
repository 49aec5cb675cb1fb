/*-------------------------------------------------------------------------
 *
 * announce.c
 *	  The masters of a database, for other databases of the server.
 *
 * cqrs.master is read only for the names of its rows.  What masters are is
 * known in master/.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/objects.h"
#include "outbox/claim.h"
#include "publish/announce.h"

static char *text_of(HeapTuple tuple, Relation rel, AttrNumber column);

void
cqrs_announce_masters(const CqrsWorker *worker)
{
	Oid			relid = cqrs_objects_get(false)->master;
	Relation	rel = table_open(relid, AccessShareLock);
	AttrNumber	id_column = get_attnum(relid, "cqrs_id");
	AttrNumber	exchange_column = get_attnum(relid, "exchange");
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0,
										  NULL);
	CqrsClaim  *claims = palloc(sizeof(CqrsClaim) * CQRS_MAX_CLAIMS);
	int			count = 0;
	HeapTuple	tuple;

	while (count < CQRS_MAX_CLAIMS &&
		   HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		CqrsClaim	claim = cqrs_claim_make(text_of(tuple, rel, id_column),
											text_of(tuple, rel, exchange_column));

		if (claim != 0)
			claims[count++] = claim;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	cqrs_claim_set(worker->slot, claims, count);
	pfree(claims);
}

void
cqrs_announce_nothing(const CqrsWorker *worker)
{
	cqrs_claim_set(worker->slot, NULL, 0);
}

/* A column of type text; NULL if it is null. */
static char *
text_of(HeapTuple tuple, Relation rel, AttrNumber column)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, column, RelationGetDescr(rel), &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}
