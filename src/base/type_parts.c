/*-------------------------------------------------------------------------
 *
 * type_parts.c
 *	  Types, and the types that their values contain.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/type_parts.h"

static bool any_attribute(Oid relid, bool (*test) (Oid type, Oid arg), Oid arg);

bool
cqrs_type_parts_any(Oid type, bool (*test) (Oid type, Oid arg), Oid arg)
{
	Oid			part;

	check_stack_depth();
	if (test(type, arg))
		return true;
	switch (get_typtype(type))
	{
		case TYPTYPE_DOMAIN:
			part = getBaseType(type);
			break;
		case TYPTYPE_RANGE:
			part = get_range_subtype(type);
			break;
		case TYPTYPE_MULTIRANGE:
			part = get_multirange_range(type);
			break;
		case TYPTYPE_COMPOSITE:
			return any_attribute(get_typ_typrelid(type), test, arg);
		default:
			part = get_element_type(type);
			break;
	}
	return OidIsValid(part) && cqrs_type_parts_any(part, test, arg);
}

static bool
any_attribute(Oid relid, bool (*test) (Oid type, Oid arg), Oid arg)
{
	HeapTuple	tuple;
	AttrNumber	attnum = 0;

	while (HeapTupleIsValid(tuple = SearchSysCache2(ATTNUM,
													ObjectIdGetDatum(relid),
													Int16GetDatum(++attnum))))
	{
		Form_pg_attribute attribute = (Form_pg_attribute) GETSTRUCT(tuple);
		Oid			type = attribute->attisdropped ? InvalidOid :
		attribute->atttypid;

		ReleaseSysCache(tuple);
		if (OidIsValid(type) && cqrs_type_parts_any(type, test, arg))
			return true;
	}
	return false;
}
