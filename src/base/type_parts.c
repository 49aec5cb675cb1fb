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
#include "nodes/pg_list.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/type_parts.h"

static bool any_part(Oid type, bool (*test) (Oid type, Oid arg), Oid arg,
					 List **seen);
static bool any_attribute(Oid relid, bool (*test) (Oid type, Oid arg),
						  Oid arg, List **seen);

bool
cqrs_type_parts_any(Oid type, bool (*test) (Oid type, Oid arg), Oid arg)
{
	List	   *seen = NIL;
	bool		found = any_part(type, test, arg, &seen);

	list_free(seen);
	return found;
}

/*
 * The same, but for the types in *seen, of which the test is false.  A type can
 * be part of another one in very many ways, if each row of a chain of row types
 * has two of the next ones.
 */
static bool
any_part(Oid type, bool (*test) (Oid type, Oid arg), Oid arg, List **seen)
{
	Oid			part;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (list_member_oid(*seen, type))
		return false;
	*seen = lappend_oid(*seen, type);
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
			return any_attribute(get_typ_typrelid(type), test, arg, seen);
		default:
			part = get_element_type(type);
			break;
	}
	return OidIsValid(part) && any_part(part, test, arg, seen);
}

/* Whether it is true for an attribute of a row, or a part of one. */
static bool
any_attribute(Oid relid, bool (*test) (Oid type, Oid arg), Oid arg,
			  List **seen)
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
		if (OidIsValid(type) && any_part(type, test, arg, seen))
			return true;
	}
	return false;
}
