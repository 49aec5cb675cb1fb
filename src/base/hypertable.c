/*-------------------------------------------------------------------------
 *
 * hypertable.c
 *	  Hypertables of TimescaleDB, and their chunks.
 *
 * A hypertable is a plain table without rows, and its chunks are inheritance
 * children that have them.  TimescaleDB makes chunks while rows are inserted,
 * drops them in functions, and copies row triggers to them.  None of that is a
 * command that a utility hook or an event trigger sees.
 *
 * What a hypertable is stands in a table of TimescaleDB, by schema and name,
 * which is read here as a system catalog is: no privilege is needed, and
 * nothing of the other extension is called.  The table has to belong to the
 * extension, so that nobody can make up hypertables.  If a later version of
 * TimescaleDB keeps them otherwise, they count as tables with inheritance
 * children, which are refused, as are changes in chunks (master/relation.c).
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
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/hypertable.h"

static bool find_hypertable(Oid relid, bool *may_compress);
static Oid	find_catalog(void);
static AttrNumber find_column(Oid catalog, const char *name, Oid type);

bool
cqrs_hypertable_is(Oid relid)
{
	bool		may_compress;

	return find_hypertable(relid, &may_compress);
}

bool
cqrs_hypertable_may_compress(Oid relid)
{
	bool		may_compress;

	return find_hypertable(relid, &may_compress) && may_compress;
}

/* A table of another kind may have several parents, or only a second one. */
Oid
cqrs_hypertable_of_chunk(Oid relid)
{
	Relation	inherits;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			result = InvalidOid;

	if (!OidIsValid(find_catalog()))
		return InvalidOid;
	inherits = table_open(InheritsRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(inherits, InheritsRelidSeqnoIndexId, true, NULL, 1,
							  &key);
	while (!OidIsValid(result) && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Oid			parent = ((Form_pg_inherits) GETSTRUCT(tuple))->inhparent;

		if (cqrs_hypertable_is(parent))
			result = parent;
	}
	systable_endscan(scan);
	table_close(inherits, AccessShareLock);
	return result;
}

/* Read the row of a hypertable; false if there is none. */
static bool
find_hypertable(Oid relid, bool *may_compress)
{
	Oid			catalog = find_catalog();
	AttrNumber	attnums[2];
	AttrNumber	state;
	NameData	schema_name;
	NameData	table_name;
	char	   *schema;
	char	   *name;
	ScanKeyData keys[2];
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;

	if (!OidIsValid(catalog) || get_rel_relkind(relid) != RELKIND_RELATION)
		return false;

	schema = get_namespace_name(get_rel_namespace(relid));
	name = get_rel_name(relid);
	if (schema == NULL || name == NULL)
		return false;
	namestrcpy(&schema_name, schema);
	namestrcpy(&table_name, name);
	attnums[0] = find_column(catalog, "schema_name", NAMEOID);
	attnums[1] = find_column(catalog, "table_name", NAMEOID);
	if (attnums[0] == InvalidAttrNumber || attnums[1] == InvalidAttrNumber)
		return false;
	ScanKeyInit(&keys[0], attnums[0], BTEqualStrategyNumber, F_NAMEEQ,
				NameGetDatum(&schema_name));
	ScanKeyInit(&keys[1], attnums[1], BTEqualStrategyNumber, F_NAMEEQ,
				NameGetDatum(&table_name));
	state = find_column(catalog, "compression_state", INT2OID);

	rel = table_open(catalog, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, lengthof(keys), keys);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple);
	*may_compress = true;
	if (found && state != InvalidAttrNumber)
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, state, RelationGetDescr(rel),
										 &isnull);

		*may_compress = isnull || DatumGetInt16(value) != 0;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* TimescaleDB's table of hypertables, or InvalidOid. */
static Oid
find_catalog(void)
{
	Oid			schema = get_namespace_oid("_timescaledb_catalog", true);
	Oid			catalog;
	Oid			extension;

	if (!OidIsValid(schema))
		return InvalidOid;
	catalog = get_relname_relid("hypertable", schema);
	extension = get_extension_oid("timescaledb", true);
	if (!OidIsValid(catalog) || !OidIsValid(extension) ||
		getExtensionOfObject(RelationRelationId, catalog) != extension)
		return InvalidOid;
	return catalog;
}

/* The number of a column, or InvalidAttrNumber: it is another version's. */
static AttrNumber
find_column(Oid catalog, const char *name, Oid type)
{
	AttrNumber	attnum = get_attnum(catalog, name);

	return attnum > 0 && get_atttype(catalog, attnum) == type ?
		attnum : InvalidAttrNumber;
}
