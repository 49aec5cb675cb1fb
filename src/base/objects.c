/*-------------------------------------------------------------------------
 *
 * objects.c
 *	  The extension's own objects, as a backend knows them.
 *
 * Tables, indexes and sequences of the schema "cqrs" are looked up by their
 * names once, and again after an invalidation of one of them: DROP EXTENSION
 * sends one, as does ALTER EXTENSION UPDATE where it changes a table, and REINDEX
 * CONCURRENTLY, which gives indexes other OIDs.
 *
 * REINDEX CONCURRENTLY waits for all transactions that hold a lock on the table
 * before it drops the old index.  So a caller that needs an index locks the table
 * first, and calls cqrs_objects_get() for the index after that: PostgreSQL handles
 * invalidations when a table is locked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "commands/extension.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/objects.h"

static CqrsObjects objects;
static bool objects_valid = false;
static bool disturbed = false;	/* an invalidation has come since the lookup
								 * began */
static bool registered = false;
static int	expected_master_natts;	/* columns */
static int	expected_replica_natts;

static bool find_objects(const char **problem);
static char *name_of(Oid catalog, const Oid *index, Oid relid);
static void invalidate(Datum arg, Oid relid);
static Oid	lookup_object(Oid schema, const char *name,
						  const char **problem);
static Oid	lookup_numbered(Oid schema, const char *format, int number,
							const char **problem);
static int	column_count(Oid relid);

void
cqrs_objects_init(int master_natts, int replica_natts)
{
	expected_master_natts = master_natts;
	expected_replica_natts = replica_natts;
}

const CqrsObjects *
cqrs_objects_get(bool missing_ok)
{
	const char *problem = NULL;

	if (find_objects(&problem))
		return &objects;
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("%s", problem),
				 errdetail("The installed objects of the extension \"cqrs\" do not match the loaded library."),
				 errhint("Use ALTER EXTENSION cqrs UPDATE, or restart the server if a new library is installed.")));
	if (!missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"cqrs\" is not installed in this database"),
				 errhint("Use CREATE EXTENSION cqrs.")));
	return NULL;
}

Oid
cqrs_objects_schema(void)
{
	Oid			extension = get_extension_oid("cqrs", true);
	Oid			schema = get_namespace_oid("cqrs", true);

	return OidIsValid(extension) && OidIsValid(schema) &&
		getExtensionOfObject(NamespaceRelationId, schema) == extension ?
		schema : InvalidOid;
}

bool
cqrs_objects_are_usable(void)
{
	const char *problem;

	return find_objects(&problem);
}

/*
 * Fill in "objects".  Returns false if the extension is missing, or if its
 * objects do not match the library.  In the latter case *problem is set to the
 * reason.
 */
static bool
find_objects(const char **problem)
{
	Oid			schema;
	CqrsObjects found;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
		registered = true;
	}
	if (objects_valid)
		return true;

	*problem = NULL;
	disturbed = false;
	schema = cqrs_objects_schema();
	if (!OidIsValid(schema))
		return false;

	found.extension = get_extension_oid("cqrs", false);
	found.master = lookup_object(schema, "master", problem);
	if (OidIsValid(found.master) &&
		column_count(found.master) != expected_master_natts)
		*problem = "table \"cqrs.master\" has other columns than the library expects";
	found.master_by_id = lookup_object(schema, "master_pkey", problem);
	found.master_by_relation = lookup_object(schema, "master_relation_idx",
											 problem);
	found.replica = lookup_object(schema, "replica", problem);
	if (OidIsValid(found.replica) &&
		column_count(found.replica) != expected_replica_natts)
		*problem = "table \"cqrs.replica\" has other columns than the library expects";
	found.replica_by_id = lookup_object(schema, "replica_pkey", problem);
	found.replica_by_relation = lookup_object(schema, "replica_relation_idx",
											  problem);
	found.message_type =
		get_rel_type_id(lookup_object(schema, "message", problem));
	found.parked = lookup_object(schema, "parked", problem);
	found.skipped = lookup_object(schema, "skipped", problem);
	found.skipped_by_id = lookup_object(schema, "skipped_pkey", problem);
	found.former = lookup_object(schema, "former", problem);
	found.former_by_id = lookup_object(schema, "former_pkey", problem);
	found.publisher = lookup_object(schema, "publisher", problem);
	found.home = lookup_object(schema, "home", problem);
	found.consumer = lookup_object(schema, "consumer", problem);
	found.failed = lookup_object(schema, "failed", problem);
	found.failed_by_id = lookup_object(schema, "failed_pkey", problem);
	found.failed_by_row = lookup_object(schema, "failed_instance_pk_idx",
										problem);
	found.failed_by_time = lookup_object(schema, "failed_next_try_idx",
										 problem);
	found.failed_id = lookup_object(schema, "failed_id", problem);
	found.handled_turn = lookup_object(schema, "handled_turn", problem);
	for (int i = 0; i < CQRS_HANDLED_TABLES; i++)
	{
		found.handled[i] = lookup_numbered(schema, "handled_%d", i, problem);
		found.handled_index[i] = lookup_numbered(schema, "handled_%d_digest_idx",
												 i, problem);
	}
	found.at_commit = lookup_object(schema, "at_commit", problem);
	found.watermark = lookup_object(schema, "watermark", problem);
	for (int i = 0; i < CQRS_SEGMENTS; i++)
	{
		found.segment[i] = lookup_numbered(schema, "segment_%d", i, problem);
		found.segment_index[i] = lookup_numbered(schema, "segment_%d_id_idx", i,
												 problem);
	}
	if (*problem != NULL)
		return false;

	objects = found;
	objects_valid = !disturbed;
	return true;
}

bool
cqrs_objects_has_master(const char *cqrs_id)
{
	Relation	master = table_open(cqrs_objects_get(false)->master,
									AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	bool		found;

	/* cqrs_id is the index's only key; see the install script. */
	ScanKeyEntryInitialize(&key, 0, 1, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ,
						   CStringGetTextDatum(cqrs_id));
	scan = systable_beginscan(master, cqrs_objects_get(false)->master_by_id,
							  true, NULL, 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(master, AccessShareLock);
	return found;
}

char *
cqrs_objects_master_of(Oid relid)
{
	return name_of(cqrs_objects_get(false)->master,
				   &objects.master_by_relation, relid);
}

char *
cqrs_objects_replica_of(Oid relid)
{
	return name_of(cqrs_objects_get(false)->replica,
				   &objects.replica_by_relation, relid);
}

/*
 * The first cqrs_id of a table in cqrs.master or cqrs.replica, whose first two
 * columns are the same; or NULL.  "index" is a field of "objects".
 */
static char *
name_of(Oid catalog, const Oid *index, Oid relid)
{
	Relation	rel = table_open(catalog, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;
	char	   *name = NULL;

	ScanKeyInit(&key, 2, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	(void) cqrs_objects_get(false);
	scan = systable_beginscan(rel, *index, true, NULL, 1, &key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
		name = TextDatumGetCString(heap_getattr(tuple, 1,
												RelationGetDescr(rel),
												&isnull));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return name;
}

/* Relcache callback: nothing may be freed or looked up here. */
static void
invalidate(Datum arg, Oid relid)
{
	const Oid  *oids = (const Oid *) &objects;

	disturbed = true;
	for (int i = 0; objects_valid && i < sizeof(objects) / sizeof(Oid); i++)
	{
		if (!OidIsValid(relid) || relid == oids[i])
			objects_valid = false;
	}
}

/* Sets *problem if the relation is missing and *problem is still NULL. */
static Oid
lookup_object(Oid schema, const char *name, const char **problem)
{
	Oid			relid = get_relname_relid(name, schema);

	if (!OidIsValid(relid) && *problem == NULL)
		*problem = psprintf("relation \"cqrs.%s\" does not exist", name);
	return relid;
}

/* The same for one of several relations whose names differ by a number. */
static Oid
lookup_numbered(Oid schema, const char *format, int number,
				const char **problem)
{
	return lookup_object(schema, psprintf(format, number), problem);
}

/* Columns of a table, dropped ones included. */
static int
column_count(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	int			count;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	count = ((Form_pg_class) GETSTRUCT(tuple))->relnatts;
	ReleaseSysCache(tuple);
	return count;
}
