/*-------------------------------------------------------------------------
 *
 * home.c
 *	  Whether the masters of this database come from another one.
 *
 * A copy of a database must not publish before somebody says so: its messages
 * would set replicas back to what they were, or ahead to what never happened.
 * The copy has of the original:
 *
 *						cqrs.home	cqrs.publisher	OID of the database
 *	  dump				rows, added	no				no
 *	  template			yes			yes				no
 *	  pg_upgrade		yes			yes				yes
 *	  physical copy		yes			yes				yes
 *	  RENAME			yes			yes				yes
 *
 * So a row of cqrs.home is at home here if it has the id of cqrs.publisher and
 * the OID of this database.  Whether a trigger fires while a dump is restored
 * does not matter, since the rows are compared and not watched; the trigger
 * of the install script only tells the user and wakes publishers.
 *
 * The first master of a database inserts the row, so a template that has
 * nothing but the extension makes no copies.
 *
 * Of physical copies one publishes, by the lease (publish/lane.c).
 *
 * cqrs.home and cqrs.publisher have a row or two, and no index.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/rel.h"
#include "utils/uuid.h"

#include "base/home.h"
#include "base/objects.h"

/* Columns of cqrs.home */
enum
{
	HOME_ID = 1,
	HOME_DATABASE,
	HOME_NATTS = HOME_DATABASE
};

/* The column of cqrs.publisher that has the id of this extension. */
#define PUBLISHER_HOME	3

PG_FUNCTION_INFO_V1(cqrs_sql_is_copy);

static pg_uuid_t own_id(void);
static bool has_row(Relation rel, const pg_uuid_t *own, bool at_home);

/* cqrs.is_copy() RETURNS boolean */
Datum
cqrs_sql_is_copy(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(cqrs_home_is_copy());
}

bool
cqrs_home_is_copy(void)
{
	Relation	rel = table_open(cqrs_objects_get(false)->home,
								 AccessShareLock);
	pg_uuid_t	own = own_id();
	bool		copy = has_row(rel, &own, false);

	table_close(rel, AccessShareLock);
	return copy;
}

void
cqrs_home_warn(void)
{
	if (cqrs_home_is_copy())
		ereport(WARNING,
				(errmsg("publishing is held back in this database"),
				 errdetail("Masters were restored from a dump, or came with a template: messages wait in the outbox."),
				 errhint("If this database is to publish, call cqrs_resume().")));
}

/*
 * Insert the row of this database, unless it is there.  Sessions that do so at
 * the same time insert equal rows, which does no harm, so none waits.
 */
void
cqrs_home_claim(void)
{
	Relation	rel = table_open(cqrs_objects_get(false)->home,
								 RowExclusiveLock);
	pg_uuid_t	own = own_id();

	if (!has_row(rel, &own, true))
	{
		Datum		values[HOME_NATTS];
		bool		nulls[HOME_NATTS] = {false};

		values[HOME_ID - 1] = UUIDPGetDatum(&own);
		values[HOME_DATABASE - 1] = ObjectIdGetDatum(MyDatabaseId);
		simple_heap_insert(rel, heap_form_tuple(RelationGetDescr(rel), values,
												nulls));
	}
	table_close(rel, NoLock);
}

/* Whether there is a row that is at home here, or one that is not. */
static bool
has_row(Relation rel, const pg_uuid_t *own, bool at_home)
{
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0,
										  NULL);
	HeapTuple	tuple;
	bool		found = false;

	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[HOME_NATTS];
		bool		nulls[HOME_NATTS];

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		found = at_home ==
			(!nulls[HOME_ID - 1] &&
			 memcmp(own, DatumGetUUIDP(values[HOME_ID - 1]),
					sizeof(pg_uuid_t)) == 0 &&
			 DatumGetObjectId(values[HOME_DATABASE - 1]) == MyDatabaseId);
	}
	systable_endscan(scan);
	return found;
}

/*
 * The id in cqrs.publisher; zeros, which no extension has, if it has no row.
 * The id never changes, so a publisher reads it once.
 */
static pg_uuid_t
own_id(void)
{
	static Oid	extension = InvalidOid;
	static pg_uuid_t id;
	const CqrsObjects *objects = cqrs_objects_get(false);
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;

	if (extension == objects->extension)
		return id;
	memset(&id, 0, sizeof(id));
	rel = table_open(objects->publisher, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		id = *DatumGetUUIDP(heap_getattr(tuple, PUBLISHER_HOME,
										 RelationGetDescr(rel), &isnull));
		extension = objects->extension;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return id;
}
