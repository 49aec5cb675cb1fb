/*-------------------------------------------------------------------------
 *
 * key_type.c
 *	  Whether keys of a type can be read back from the JSON of messages.
 *
 * Types are judged by their properties and not by a list of names.  So types
 * of later releases and of extensions are judged as well.  Parts of a type
 * count: elements, attributes, bounds.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "compose/key_type.h"
#include "compose/value.h"

/* Why values of a type cannot be read back. */
typedef enum Problem
{
	PROBLEM_NONE,
	PROBLEM_UNSTABLE,			/* the text depends on more than the value */
	PROBLEM_FUNCTION,			/* reading could call a user's function */
	PROBLEM_DIMENSIONS,			/* an element looks like a dimension */
	PROBLEM_OBJECT,				/* the JSON is not the type's text */
	PROBLEM_INTERNAL,			/* a type for PostgreSQL's own use */
	PROBLEM_VECTOR				/* an array with a lower bound of its own */
} Problem;

static Problem problem_of(Oid type, bool as_text, List *outer,
						  Oid *part);
static Problem problem_of_array(Oid base, Oid element, bool as_text,
								List *outer, Oid *part);
static Problem problem_of_row(Oid base, bool as_text, List *outer,
							  Oid *part);
static Problem problem_of_range(Oid range, List *outer, Oid *part);
static Problem problem_of_scalar(Oid base, bool as_text);
static bool text_is_pinned(Oid base);

void
cqrs_key_type_check(Relation rel, const CqrsRelation *relation)
{
	for (int i = 0; i < relation->nkeys; i++)
	{
		Oid			part;
		Oid			type = TupleDescAttr(RelationGetDescr(rel),
										 relation->keys[i].attnum - 1)->atttypid;
		Problem		problem = problem_of(type, false, NIL, &part);

		if (problem == PROBLEM_NONE)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("primary key column \"%s\" of table \"%s\" cannot be read back from messages",
						relation->keys[i].column,
						RelationGetRelationName(rel)),
				 problem == PROBLEM_UNSTABLE ?
				 errdetail("The text of a value of type %s depends on more than the value.",
						   format_type_be(part)) :
				 problem == PROBLEM_FUNCTION ?
				 errdetail("Reading the text of a value of type %s can call a user-defined function.",
						   format_type_be(part)) :
				 problem == PROBLEM_DIMENSIONS ?
				 errdetail("In JSON, elements of type %s look like dimensions of an array.",
						   format_type_be(get_element_type(getBaseType(part)))) :
				 problem == PROBLEM_OBJECT ?
				 errdetail("Type %s does not read the JSON object that a message has for its values.",
						   format_type_be(part)) :
				 problem == PROBLEM_INTERNAL ?
				 errdetail("Type %s is for PostgreSQL's internal use.",
						   format_type_be(part)) :
				 errdetail("Messages do not carry the lower bound of type %s.",
						   format_type_be(part)),
				 errhint("Use a primary key of another type, such as integer, uuid or text.")));
	}
}

/*
 * "as_text": the value is part of one that is written as PostgreSQL's text, by
 * input and output functions.  "outer" are the row types that the value is
 * part of.  *part is set to the type that has the problem.
 */
static Problem
problem_of(Oid type, bool as_text, List *outer, Oid *part)
{
	Oid			base = getBaseType(type);
	Oid			element = get_element_type(base);

	check_stack_depth();
	*part = type;
	if (as_text && base != type)
		return PROBLEM_FUNCTION;
	if (OidIsValid(element))
		return problem_of_array(base, element, as_text, outer, part);
	if (type_is_rowtype(base))
		return problem_of_row(base, as_text, outer, part);
	if (type_is_range(base))
		return problem_of_range(base, outer, part);
	if (type_is_multirange(base))
		return problem_of_range(get_multirange_range(base), outer, part);
	*part = base;
	return problem_of_scalar(base, as_text);
}

/* problem_of() for an array of "element". */
static Problem
problem_of_array(Oid base, Oid element, bool as_text, List *outer, Oid *part)
{
	Oid			element_base = getBaseType(element);

	if (!as_text)
	{
		/* oidvector and int2vector */
		if (get_array_type(element) != base)
			return PROBLEM_VECTOR;
		if (element_base == JSONBOID || element_base == JSONOID ||
			OidIsValid(get_element_type(element_base)))
			return PROBLEM_DIMENSIONS;
	}
	return problem_of(element, as_text, outer, part);
}

/* The same for a row type: the problem of the first attribute that has one. */
static Problem
problem_of_row(Oid base, bool as_text, List *outer, Oid *part)
{
	Problem		problem = PROBLEM_NONE;
	TupleDesc	desc;

	/* Row types can nest in a circle, through arrays. */
	if (list_member_oid(outer, base))
		return problem;
	outer = lappend_oid(list_copy(outer), base);

	desc = lookup_rowtype_tupdesc_copy(base, -1);
	for (int i = 0; i < desc->natts && problem == PROBLEM_NONE; i++)
	{
		if (!TupleDescAttr(desc, i)->attisdropped)
			problem = problem_of(TupleDescAttr(desc, i)->atttypid, as_text,
								 outer, part);
	}
	return problem;
}

/* A range is written as text, with its bounds in it. */
static Problem
problem_of_range(Oid range, List *outer, Oid *part)
{
	TypeCacheEntry *type = lookup_type_cache(range, TYPECACHE_RANGE_INFO);

	*part = range;
	if (type->rng_canonical_finfo.fn_oid >= FirstNormalObjectId)
		return PROBLEM_FUNCTION;
	return problem_of(type->rngelemtype->type_id, true, outer, part);
}

/* The same for a type without parts. */
static Problem
problem_of_scalar(Oid base, bool as_text)
{
	CqrsValueFormat format;
	Oid			input;
	Oid			output;
	Oid			ioparam;
	bool		is_varlena;
	char		category;
	bool		preferred;

	get_type_category_preferred(base, &category, &preferred);
	if (category == TYPCATEGORY_INTERNAL)
		return PROBLEM_INTERNAL;
	cqrs_value_init(&format, base);
	if (format.style == CQRS_STYLE_JSON && format.json_is_text && !as_text)
		return PROBLEM_OBJECT;

	getTypeInputInfo(base, &input, &ioparam);
	getTypeOutputInfo(base, &output, &is_varlena);
	if ((func_volatile(input) == PROVOLATILE_IMMUTABLE &&
		 func_volatile(output) == PROVOLATILE_IMMUTABLE) ||
		text_is_pinned(base))
		return PROBLEM_NONE;
	return PROBLEM_UNSTABLE;
}

/*
 * Whether serialize.c pins the settings that the type's output depends on, and
 * the text in that form is read alike under any settings.
 */
static bool
text_is_pinned(Oid base)
{
	switch (base)
	{
		case DATEOID:
		case TIMEOID:
		case TIMETZOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case INTERVALOID:
			return true;
		default:
			return type_is_enum(base);
	}
}
