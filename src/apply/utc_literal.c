/*-------------------------------------------------------------------------
 *
 * utc_literal.c
 *	  Literals with timestamps in them, which become UTC.
 *
 * PostgreSQL's input of timestamps ignores offsets, also in the literals of
 * arrays, ranges and composite types.  Such a literal is read as one of a twin
 * type, which has timestamptz where the type has timestamp, and text for what
 * has no timestamps in it.  Written again, in the time zone UTC, all offsets
 * are zero.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "apply/utc_literal.h"
#include "base/compat.h"

struct CqrsUtcLiteral
{
	FmgrInfo	input;			/* of the twin */
	FmgrInfo	output;
	Oid			ioparam;
	int32		typmod;
};

static Oid	twin_of(Oid type, int32 *typmod);
static Oid	twin_of_row(Oid type, int32 *typmod);

CqrsUtcLiteral *
cqrs_utc_literal_prepare(Oid type)
{
	CqrsUtcLiteral *literal;
	int32		typmod;
	Oid			twin = twin_of(type, &typmod);
	Oid			function;
	bool		is_varlena;

	if (!OidIsValid(twin))
		return NULL;
	literal = palloc(sizeof(CqrsUtcLiteral));
	literal->typmod = typmod;
	getTypeInputInfo(twin, &function, &literal->ioparam);
	fmgr_info(function, &literal->input);
	getTypeOutputInfo(twin, &function, &is_varlena);
	fmgr_info(function, &literal->output);
	return literal;
}

char *
cqrs_utc_literal(CqrsUtcLiteral *literal, char *text)
{
	return OutputFunctionCall(&literal->output,
							  InputFunctionCall(&literal->input, text,
												literal->ioparam,
												literal->typmod));
}

/* The twin of a type, or InvalidOid if the type has no timestamps in it. */
static Oid
twin_of(Oid type, int32 *typmod)
{
	Oid			base = getBaseType(type);
	Oid			element = get_element_type(base);
	Oid			twin;

	check_stack_depth();
	*typmod = -1;
	if (base == TIMESTAMPOID)
		return TIMESTAMPTZOID;
	if (OidIsValid(element))
	{
		twin = twin_of(element, typmod);
		return OidIsValid(twin) ? get_array_type(twin) : InvalidOid;
	}
	switch (get_typtype(base))
	{
		case TYPTYPE_RANGE:
			twin = twin_of(get_range_subtype(base), typmod);
			return twin == TIMESTAMPTZOID ? TSTZRANGEOID : InvalidOid;
		case TYPTYPE_MULTIRANGE:
			twin = twin_of(get_multirange_range(base), typmod);
			return twin == TSTZRANGEOID ? TSTZMULTIRANGEOID : InvalidOid;
		case TYPTYPE_COMPOSITE:
			return twin_of_row(base, typmod);
		default:
			return InvalidOid;
	}
}

/* An anonymous row type, without the dropped attributes. */
static Oid
twin_of_row(Oid type, int32 *typmod)
{
	TupleDesc	desc = lookup_rowtype_tupdesc_copy(type, -1);
	Oid		   *twins = palloc(sizeof(Oid) * (desc->natts + 1));
	int32	   *typmods = palloc(sizeof(int32) * (desc->natts + 1));
	int			ntwins = 0;
	bool		found = false;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped)
			continue;
		twins[ntwins] = twin_of(att->atttypid, &typmods[ntwins]);
		if (OidIsValid(twins[ntwins]))
			found = true;
		else
			twins[ntwins] = TEXTOID;
		ntwins++;
	}
	if (!found)
		return InvalidOid;
	desc = CreateTemplateTupleDesc(ntwins);
	for (int i = 0; i < ntwins; i++)
		TupleDescInitEntry(desc, i + 1, NULL, twins[i], typmods[i], 0);
	cqrs_finish_tuple_desc(desc);
	*typmod = BlessTupleDesc(desc)->tdtypmod;
	return RECORDOID;
}
