/*-------------------------------------------------------------------------
 *
 * home.c
 *	  Whether the masters of this database come from another one.
 *
 * A copy of a database must not publish before somebody says so: its messages
 * would set replicas back to what they were, or ahead to what never happened.
 * A copy is recognised by what comes along and what does not:
 *
 *						cqrs.home	cqrs.publisher	OID of the database
 *	  dump				is added	is another one	is another one
 *	  template			comes along	comes along		is another one
 *	  pg_upgrade		comes along	comes along		comes along
 *	  physical copy		comes along	comes along		comes along
 *	  RENAME			stays		stays			stays
 *
 * So a row of cqrs.home is at home here if it has the id of cqrs.publisher and
 * the OID of this database.  Whether a trigger fires while a dump is restored
 * does not matter, since the rows are compared and not watched; the trigger
 * of the install script only tells the user and wakes publishers.
 *
 * The OID is null until the first master is registered, so that a template
 * that has nothing but the extension makes no copies.
 *
 * Of physical copies one publishes, by the lease (publish/lane.c).
 *
 * cqrs.home and cqrs.publisher have a row or two, and no index.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
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
static bool is_own(const pg_uuid_t *own, Datum id, bool isnull);
static bool claim(LOCKMODE lockmode);

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
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0,
										  NULL);
	pg_uuid_t	own = own_id();
	HeapTuple	tuple;
	bool		copy = false;

	while (!copy && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[HOME_NATTS];
		bool		nulls[HOME_NATTS];

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		copy = !nulls[HOME_DATABASE - 1] &&
			(DatumGetObjectId(values[HOME_DATABASE - 1]) != MyDatabaseId ||
			 !is_own(&own, values[HOME_ID - 1], nulls[HOME_ID - 1]));
	}
	systable_endscan(scan);
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

/* The table is locked for the first master only. */
void
cqrs_home_claim(void)
{
	if (claim(AccessShareLock))
		claim(ShareRowExclusiveLock);
}

/*
 * Put the OID of this database into the row of this extension, if the lock
 * permits it.  Returns whether the row has no OID yet.
 */
static bool
claim(LOCKMODE lockmode)
{
	Relation	rel = table_open(cqrs_objects_get(false)->home, lockmode);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0,
										  NULL);
	pg_uuid_t	own = own_id();
	HeapTuple	tuple;
	bool		vacant = false;

	while (!vacant && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[HOME_NATTS];
		bool		nulls[HOME_NATTS];

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		vacant = nulls[HOME_DATABASE - 1] &&
			is_own(&own, values[HOME_ID - 1], nulls[HOME_ID - 1]);
		if (vacant && lockmode != AccessShareLock)
		{
			values[HOME_DATABASE - 1] = ObjectIdGetDatum(MyDatabaseId);
			nulls[HOME_DATABASE - 1] = false;
			CatalogTupleUpdate(rel, &tuple->t_self,
							   heap_form_tuple(RelationGetDescr(rel), values,
											   nulls));
		}
	}
	systable_endscan(scan);
	table_close(rel, lockmode == AccessShareLock ? lockmode : NoLock);
	return vacant;
}

/* The id in cqrs.publisher; zeros, which no extension has, if it has no row. */
static pg_uuid_t
own_id(void)
{
	Relation	rel = table_open(cqrs_objects_get(false)->publisher,
								 AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0,
										  NULL);
	HeapTuple	tuple = systable_getnext(scan);
	pg_uuid_t	id = {{0}};
	bool		isnull;

	if (HeapTupleIsValid(tuple))
		id = *DatumGetUUIDP(heap_getattr(tuple, PUBLISHER_HOME,
										 RelationGetDescr(rel), &isnull));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return id;
}

static bool
is_own(const pg_uuid_t *own, Datum id, bool isnull)
{
	return !isnull && memcmp(own, DatumGetUUIDP(id), sizeof(pg_uuid_t)) == 0;
}
