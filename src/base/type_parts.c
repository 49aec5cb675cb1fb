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

/* A walk through the parts of a type. */
typedef struct Walk
{
	bool		(*test) (Oid type, Oid arg);
	Oid			arg;
	List	   *rows;			/* row types that were entered */
} Walk;

static bool any_part(Walk *walk, Oid type);
static bool any_attribute(Walk *walk, Oid relid);
static bool is_same(Oid type, Oid other);

bool
cqrs_type_parts_any(Oid type, bool (*test) (Oid type, Oid arg), Oid arg)
{
	Walk		walk = {test, arg, NIL};

	return any_part(&walk, type);
}

/*
 * A row type can have another one as several attributes, and so on.  So each is
 * entered once.
 */
static bool
any_part(Walk *walk, Oid type)
{
	Oid			part;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (walk->test(type, walk->arg))
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
			if (list_member_oid(walk->rows, type))
				return false;
			walk->rows = lappend_oid(walk->rows, type);
			return any_attribute(walk, get_typ_typrelid(type));
		default:
			part = get_element_type(type);
			break;
	}
	return OidIsValid(part) && any_part(walk, part);
}

static bool
any_attribute(Walk *walk, Oid relid)
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
		if (OidIsValid(type) && any_part(walk, type))
			return true;
	}
	return false;
}

bool
cqrs_type_parts_have(Oid type, Oid part)
{
	return cqrs_type_parts_any(type, is_same, part);
}

static bool
is_same(Oid type, Oid other)
{
	return type == other;
}
