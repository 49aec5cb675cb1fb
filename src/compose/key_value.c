/*-------------------------------------------------------------------------
 *
 * key_value.c
 *	  Values of key columns, read back from the JSON of messages.
 *
 * The inverse of value.c, for types that key_type.c accepts.
 *
 * JSON does not carry all of a value.  Infinite dates are written as the first
 * and the last date that Python knows, arrays lose their lower bounds, and an
 * attribute that is the JSON null looks like a null attribute.  Values that
 * share their JSON lie in a range of the type's order.  The ends of the range
 * are computed here: rows are looked up between them, and compared by their
 * JSON.
 *
 * No user's function is called.  Keys are read with the rights of the caller,
 * who need not trust the owner of the table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "base/compat.h"
#include "compose/key_value.h"
#include "compose/serialize.h"
#include "compose/value.h"

PG_FUNCTION_INFO_V1(cqrs_sql_key_json);

/* The first and the last date that Python knows. */
#define FIRST_DATE	((DateADT) (date2j(1, 1, 1) - POSTGRES_EPOCH_JDATE))
#define LAST_DATE	((DateADT) (date2j(9999, 12, 31) - POSTGRES_EPOCH_JDATE))
#define FIRST_TIMESTAMP ((Timestamp) FIRST_DATE * USECS_PER_DAY)
#define LAST_TIMESTAMP	(((Timestamp) LAST_DATE + 1) * USECS_PER_DAY - 1)

/* The elements of an array while its JSON is read. */
typedef struct ArrayReader
{
	Oid			array;			/* the type, for errors */
	Oid			element;
	int			ndim;
	int			dims[MAXDIM];
	Datum	   *elems;
	bool	   *nulls;
	int			nelems;			/* read so far */
} ArrayReader;

static Datum read_scalar(const JsonbValue *json, Oid base);
static Datum read_array(const JsonbValue *json, Oid base, Oid element);
static void read_elements(ArrayReader *reader, const JsonbValue *json,
						  int level);
static Datum read_row(const JsonbValue *json, Oid base);
pg_noreturn static void invalid_json(const JsonbValue *json, Oid type);
static Datum extreme(Datum value, Oid type, bool highest);
static Datum extreme_date(DateADT date, bool highest);
static Datum extreme_timestamp(Timestamp time, bool highest);
static Datum extreme_array(Datum value, bool highest);
static Datum extreme_row(Datum value, bool highest);
static void extreme_null(Datum *value, bool *isnull, bool highest);
static bool is_json_null(Datum value);

bool
cqrs_key_value_is_shared(Oid type)
{
	Oid			base = getBaseType(type);

	return base == DATEOID || base == TIMESTAMPOID || base == TIMESTAMPTZOID ||
		OidIsValid(get_element_type(base)) || type_is_rowtype(base);
}

Datum
cqrs_key_value_read(const JsonbValue *json, Oid type, bool *isnull)
{
	Oid			base = getBaseType(type);
	Oid			element = get_element_type(base);

	check_stack_depth();
	*isnull = json->type == jbvNull && base != JSONBOID;
	if (*isnull)
		return (Datum) 0;
	if (base == JSONBOID)
		return JsonbPGetDatum(JsonbValueToJsonb(unconstify(JsonbValue *, json)));
	if (OidIsValid(element))
		return read_array(json, base, element);
	if (type_is_rowtype(base))
		return read_row(json, base);
	return read_scalar(json, base);
}

/* A value from a JSON scalar, by the type's input function. */
static Datum
read_scalar(const JsonbValue *json, Oid base)
{
	Oid			input;
	Oid			ioparam;
	char	   *text = NULL;

	switch (json->type)
	{
		case jbvString:
			text = pnstrdup(json->val.string.val, json->val.string.len);

			break;
		case jbvNumeric:
			text = DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(json->val.numeric)));

			break;
		case jbvBool:
			text = pstrdup(json->val.boolean ? "true" : "false");

			break;
		default:
			invalid_json(json, base);
	}
	getTypeInputInfo(base, &input, &ioparam);
	return OidInputFunctionCall(input, text, ioparam, -1);
}

/*
 * An element is never written as an array, so the arrays in the JSON are the
 * dimensions.
 */
static Datum
read_array(const JsonbValue *json, Oid base, Oid element)
{
	ArrayReader reader = {base, element, 0, {0}, NULL, NULL, 0};
	int			lower[MAXDIM];
	JsonbValue	first = *json;
	int16		typlen;
	bool		typbyval;
	char		typalign;

	while (first.type == jbvBinary &&
		   JsonContainerIsArray(first.val.binary.data))
	{
		int			size = JsonContainerSize(first.val.binary.data);

		if (reader.ndim == 0 && size == 0)
			return PointerGetDatum(construct_empty_array(element));
		if (reader.ndim == MAXDIM || size == 0)
			invalid_json(json, base);
		lower[reader.ndim] = 1;
		reader.dims[reader.ndim++] = size;
		first = *getIthJsonbValueFromContainer(first.val.binary.data, 0);
	}
	if (reader.ndim == 0)
		invalid_json(json, base);

	reader.elems = palloc(sizeof(Datum) *
						  ArrayGetNItems(reader.ndim, reader.dims));
	reader.nulls = palloc(sizeof(bool) *
						  ArrayGetNItems(reader.ndim, reader.dims));
	read_elements(&reader, json, 0);
	get_typlenbyvalalign(element, &typlen, &typbyval, &typalign);
	return PointerGetDatum(construct_md_array(reader.elems, reader.nulls,
											  reader.ndim, reader.dims, lower,
											  element, typlen, typbyval,
											  typalign));
}

/* Read the elements below a level of the dimensions into reader->elems. */
static void
read_elements(ArrayReader *reader, const JsonbValue *json, int level)
{
	if (level == reader->ndim)
	{
		reader->elems[reader->nelems] =
			cqrs_key_value_read(json, reader->element,
								&reader->nulls[reader->nelems]);
		reader->nelems++;
		return;
	}
	if (json->type != jbvBinary ||
		!JsonContainerIsArray(json->val.binary.data) ||
		JsonContainerSize(json->val.binary.data) != reader->dims[level])
		invalid_json(json, reader->array);
	for (int i = 0; i < reader->dims[level]; i++)
		read_elements(reader,
					  getIthJsonbValueFromContainer(json->val.binary.data, i),
					  level + 1);
}

/* A row of a composite type from an object; a key that is missing is null. */
static Datum
read_row(const JsonbValue *json, Oid base)
{
	TupleDesc	desc = lookup_rowtype_tupdesc_copy(base, -1);
	Datum	   *values = palloc0(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * desc->natts);

	if (json->type != jbvBinary ||
		!JsonContainerIsObject(json->val.binary.data))
		invalid_json(json, base);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		JsonbValue *value = att->attisdropped ? NULL :
		getKeyJsonValueFromContainer(json->val.binary.data,
									 NameStr(att->attname),
									 strlen(NameStr(att->attname)), NULL);

		nulls[i] = true;
		if (value != NULL)
			values[i] = cqrs_key_value_read(value, att->atttypid, &nulls[i]);
	}
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* Raises the error: the JSON is no key of that type. */
static void
invalid_json(const JsonbValue *json, Oid type)
{
	Jsonb	   *jsonb = JsonbValueToJsonb(unconstify(JsonbValue *, json));

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
			 errmsg("invalid key of type %s: %s", format_type_be(type),
					JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb))),
			 errhint("Write the key as messages have it in \"instance_pk\".")));
}

Datum
cqrs_key_value_lowest(Datum value, Oid type)
{
	return extreme(value, type, false);
}

Datum
cqrs_key_value_highest(Datum value, Oid type)
{
	return extreme(value, type, true);
}

/* The highest, or the lowest, value that has the same JSON as a value. */
static Datum
extreme(Datum value, Oid type, bool highest)
{
	Oid			base = getBaseType(type);

	check_stack_depth();
	switch (base)
	{
		case DATEOID:
			return extreme_date(DatumGetDateADT(value), highest);
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return extreme_timestamp(DatumGetTimestamp(value), highest);
		default:
			if (OidIsValid(get_element_type(base)))
				return extreme_array(value, highest);
			if (type_is_rowtype(base))
				return extreme_row(value, highest);
			return value;
	}
}

/*
 * extreme() for a date.  JSON has the last one for infinity, the first one for
 * -infinity.
 */
static Datum
extreme_date(DateADT date, bool highest)
{
	DateADT		infinite;

	if (date == LAST_DATE || DATE_IS_NOEND(date))
	{
		DATE_NOEND(infinite);
		return DateADTGetDatum(highest ? infinite : LAST_DATE);
	}
	if (date == FIRST_DATE || DATE_IS_NOBEGIN(date))
	{
		DATE_NOBEGIN(infinite);
		return DateADTGetDatum(highest ? FIRST_DATE : infinite);
	}
	return DateADTGetDatum(date);
}

/* The same for a timestamp. */
static Datum
extreme_timestamp(Timestamp time, bool highest)
{
	Timestamp	infinite;

	if (time == LAST_TIMESTAMP || TIMESTAMP_IS_NOEND(time))
	{
		TIMESTAMP_NOEND(infinite);
		return TimestampGetDatum(highest ? infinite : LAST_TIMESTAMP);
	}
	if (time == FIRST_TIMESTAMP || TIMESTAMP_IS_NOBEGIN(time))
	{
		TIMESTAMP_NOBEGIN(infinite);
		return TimestampGetDatum(highest ? FIRST_TIMESTAMP : infinite);
	}
	return TimestampGetDatum(time);
}

/* Arrays are ordered by their elements first, then by their lower bounds. */
static Datum
extreme_array(Datum value, bool highest)
{
	ArrayType  *array = DatumGetArrayTypeP(value);
	Oid			element = ARR_ELEMTYPE(array);
	int			lower[MAXDIM];
	Datum	   *elems;
	bool	   *nulls;
	int			nelems;
	int16		typlen;
	bool		typbyval;
	char		typalign;

	if (ARR_NDIM(array) == 0)
		return value;
	get_typlenbyvalalign(element, &typlen, &typbyval, &typalign);
	deconstruct_array(array, element, typlen, typbyval, typalign,
					  &elems, &nulls, &nelems);
	for (int i = 0; i < nelems; i++)
	{
		if (!nulls[i])
			elems[i] = extreme(elems[i], element, highest);
	}
	for (int i = 0; i < ARR_NDIM(array); i++)
		lower[i] = highest ? PG_INT32_MAX - ARR_DIMS(array)[i] : PG_INT32_MIN;
	return PointerGetDatum(construct_md_array(elems, nulls, ARR_NDIM(array),
											  ARR_DIMS(array), lower, element,
											  typlen, typbyval, typalign));
}

/* The same for a row: each attribute is the extreme one. */
static Datum
extreme_row(Datum value, bool highest)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(value);
	TupleDesc	desc = lookup_rowtype_tupdesc_copy(HeapTupleHeaderGetTypeId(header),
												   HeapTupleHeaderGetTypMod(header));
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * desc->natts);
	HeapTupleData tuple = {0};

	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	tuple.t_data = header;
	heap_deform_tuple(&tuple, desc, values, nulls);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped)
			continue;
		if (getBaseType(att->atttypid) == JSONBOID)
			extreme_null(&values[i], &nulls[i], highest);
		else if (!nulls[i])
			values[i] = extreme(values[i], att->atttypid, highest);
	}
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* A null attribute sorts after all values, the JSON null included. */
static void
extreme_null(Datum *value, bool *isnull, bool highest)
{
	if (!*isnull && !is_json_null(*value))
		return;
	*isnull = highest;
	*value = highest ? (Datum) 0 :
		DirectFunctionCall1(jsonb_in, CStringGetDatum("null"));
}

static bool
is_json_null(Datum value)
{
	Jsonb	   *json = DatumGetJsonbP(value);
	JsonbValue	scalar;

	return JB_ROOT_IS_SCALAR(json) &&
		JsonbExtractScalar(&json->root, &scalar) && scalar.type == jbvNull;
}

/* cqrs.key_json(value anyelement) RETURNS jsonb: as messages have it */
Datum
cqrs_sql_key_json(PG_FUNCTION_ARGS)
{
	CqrsValueFormat *format = fcinfo->flinfo->fn_extra;
	StringInfoData json;
	int			guc_level = 0;

	if (format == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

		format = palloc(sizeof(CqrsValueFormat));
		cqrs_value_init(format, get_fn_expr_argtype(fcinfo->flinfo, 0));
		fcinfo->flinfo->fn_extra = format;
		MemoryContextSwitchTo(caller);
	}

	initStringInfo(&json);
	if (cqrs_value_uses_settings(format))
		guc_level = cqrs_serialize_pin_settings();
	cqrs_value_append(&json, format, PG_GETARG_DATUM(0));
	if (guc_level > 0)
		AtEOXact_GUC(false, guc_level);
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}
