/*-------------------------------------------------------------------------
 *
 * value.c
 *	  Values of columns as JSON.
 *
 * The form of each type follows django-cqrs, so that its replicas can read it:
 * docs/wire-format.md has the table.
 *
 * Output must not depend on the session: if the text of a type depends on
 * settings, the caller has pinned them (serialize.c).  Values may be toasted:
 * callers have a snapshot.  Everything is allocated in the caller's context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "common/shortest_dec.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

#include "compose/value.h"

/* Room for any integer as text. */
#define INTEGER_BYTES	24

static bool text_is_fixed(Oid type);
static bool hstore_output(Oid type, FmgrInfo *output);
static void append_float(StringInfo out, double value, bool single);
static void append_numeric(StringInfo out, CqrsValueFormat *format,
						   Datum value);
static void append_date(StringInfo out, DateADT date);
static void append_text(StringInfo out, Datum value);
static void append_string(StringInfo out, const char *string, int length);
static bool needs_escapes(const char *string, int length);
static void append_uuid(StringInfo out, Datum value);
static void append_timestamp(StringInfo out, Timestamp time, bool zone);
static void append_json(StringInfo out, CqrsValueFormat *format, Datum value);
static void append_array(StringInfo out, CqrsValueFormat *format, Datum value);
static void append_array_level(StringInfo out, CqrsValueFormat *element,
							   const Datum *elems, const bool *nulls,
							   int *next, int level, int ndim,
							   const int *dims);
static void append_composite(StringInfo out, Datum value);

void
cqrs_value_init(CqrsValueFormat *format, Oid type)
{
	Oid			element;
	Oid			output;
	bool		is_varlena;
	char		category;
	bool		preferred;

	memset(format, 0, sizeof(*format));
	type = getBaseType(type);

	switch (type)
	{
		case BOOLOID:
			format->style = CQRS_STYLE_BOOL;
			return;
		case INT2OID:
			format->style = CQRS_STYLE_INT2;
			return;
		case INT4OID:
			format->style = CQRS_STYLE_INT4;
			return;
		case INT8OID:
			format->style = CQRS_STYLE_INT8;
			return;
		case FLOAT4OID:
			format->style = CQRS_STYLE_FLOAT4;
			return;
		case FLOAT8OID:
			format->style = CQRS_STYLE_FLOAT8;
			return;
		case DATEOID:
			format->style = CQRS_STYLE_DATE;
			return;
		case TIMESTAMPOID:
			format->style = CQRS_STYLE_TIMESTAMP;
			return;
		case TIMESTAMPTZOID:
			format->style = CQRS_STYLE_TIMESTAMPTZ;
			return;
		case UUIDOID:
			format->style = CQRS_STYLE_UUID;
			return;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			format->style = CQRS_STYLE_TEXT;
			return;
		case NUMERICOID:
			format->style = CQRS_STYLE_NUMERIC;
			break;
		case JSONOID:
		case JSONBOID:
			format->style = CQRS_STYLE_JSON;
			break;
		default:
			format->style = CQRS_STYLE_STRING;
			break;
	}

	if (format->style == CQRS_STYLE_STRING)
	{
		element = get_element_type(type);
		get_type_category_preferred(type, &category, &preferred);
		if (OidIsValid(element))
		{
			format->style = CQRS_STYLE_ARRAY;
			format->element = palloc(sizeof(CqrsValueFormat));
			cqrs_value_init(format->element, element);
			get_typlenbyvalalign(element, &format->typlen, &format->typbyval,
								 &format->typalign);
			return;
		}
		if (type_is_rowtype(type))
		{
			format->style = CQRS_STYLE_COMPOSITE;
			return;
		}
		if (hstore_output(type, &format->output))
		{
			format->style = CQRS_STYLE_JSON;
			format->json_is_text = true;
			return;
		}
	}
	format->text_is_fixed = text_is_fixed(type);
	getTypeOutputInfo(type, &output, &is_varlena);
	fmgr_info_cxt(output, &format->output, CurrentMemoryContext);
}

bool
cqrs_value_uses_settings(const CqrsValueFormat *format)
{
	switch (format->style)
	{
		case CQRS_STYLE_STRING:
			return !format->text_is_fixed;
		case CQRS_STYLE_ARRAY:
			return cqrs_value_uses_settings(format->element);
		default:
			return format->style == CQRS_STYLE_COMPOSITE;
	}
}

/*
 * The end of a string, where so many bytes can be written, a final zero among
 * them.  To write there, rather than to a buffer that is copied, is faster: what
 * has been written by bytes is slow to read in words at once.
 */
static inline char *
reserve(StringInfo out, int bytes)
{
	enlargeStringInfo(out, bytes);
	return out->data + out->len;
}

/* What was written ends here. */
static inline void
set_end(StringInfo out, char *end)
{
	*end = '\0';
	out->len = end - out->data;
}

void
cqrs_value_append(StringInfo out, CqrsValueFormat *format, Datum value)
{
	char	   *string;

	switch (format->style)
	{
		case CQRS_STYLE_BOOL:
			appendStringInfoString(out, DatumGetBool(value) ? "true" : "false");
			break;
		case CQRS_STYLE_INT2:
			out->len += pg_itoa(DatumGetInt16(value), reserve(out, INTEGER_BYTES));
			break;
		case CQRS_STYLE_INT4:
			out->len += pg_ltoa(DatumGetInt32(value), reserve(out, INTEGER_BYTES));
			break;
		case CQRS_STYLE_INT8:
			out->len += pg_lltoa(DatumGetInt64(value), reserve(out, INTEGER_BYTES));
			break;
		case CQRS_STYLE_FLOAT4:
			append_float(out, DatumGetFloat4(value), true);
			break;
		case CQRS_STYLE_FLOAT8:
			append_float(out, DatumGetFloat8(value), false);
			break;
		case CQRS_STYLE_NUMERIC:
			append_numeric(out, format, value);
			break;
		case CQRS_STYLE_DATE:
			append_date(out, DatumGetDateADT(value));
			break;
		case CQRS_STYLE_TIMESTAMP:
		case CQRS_STYLE_TIMESTAMPTZ:
			appendStringInfoChar(out, '"');
			append_timestamp(out, DatumGetTimestamp(value),
							 format->style == CQRS_STYLE_TIMESTAMPTZ);
			appendStringInfoChar(out, '"');
			break;
		case CQRS_STYLE_TEXT:
			append_text(out, value);
			break;
		case CQRS_STYLE_UUID:
			append_uuid(out, value);
			break;
		case CQRS_STYLE_JSON:
			append_json(out, format, value);
			break;
		case CQRS_STYLE_ARRAY:
			append_array(out, format, value);
			break;
		case CQRS_STYLE_COMPOSITE:
			append_composite(out, value);
			break;
		case CQRS_STYLE_STRING:
			string = OutputFunctionCall(&format->output, value);
			append_string(out, string, strlen(string));
			break;
	}
}

void
cqrs_value_append_timestamptz(StringInfo out, TimestampTz time)
{
	append_timestamp(out, time, true);
}

/* Whether the text of a type is known to depend on no setting. */
static bool
text_is_fixed(Oid type)
{
	switch (type)
	{
		case INETOID:
		case CIDROID:
		case MACADDROID:
		case NAMEOID:
		case BITOID:
		case VARBITOID:
			return true;
		default:
			return type_is_enum(type);
	}
}

/* Whether a type is hstore of the extension; if so, find its cast to JSON. */
static bool
hstore_output(Oid type, FmgrInfo *output)
{
	Oid			extension = getExtensionOfObject(TypeRelationId, type);
	HeapTuple	tuple;
	Form_pg_type form;
	bool		is_hstore;
	List	   *name;

	if (!OidIsValid(extension) ||
		extension != get_extension_oid("hstore", true))
		return false;

	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	form = (Form_pg_type) GETSTRUCT(tuple);
	is_hstore = strcmp(NameStr(form->typname), "hstore") == 0;
	name = list_make1(makeString(get_namespace_name(form->typnamespace)));
	ReleaseSysCache(tuple);

	if (is_hstore)
	{
		name = lappend(name, makeString("hstore_to_json"));
		fmgr_info_cxt(LookupFuncName(name, 1, &type, false), output,
					  CurrentMemoryContext);
	}
	return is_hstore;
}

/* A number that always looks like a float; a string if JSON cannot have it. */
static void
append_float(StringInfo out, double value, bool single)
{
	char		buf[DOUBLE_SHORTEST_DECIMAL_LEN];

	if (isnan(value))
		appendStringInfoString(out, "\"NaN\"");
	else if (isinf(value))
		appendStringInfoString(out, value > 0 ? "\"Infinity\"" : "\"-Infinity\"");
	else
	{
		if (single)
			float_to_shortest_decimal_buf((float) value, buf);
		else
			double_to_shortest_decimal_buf(value, buf);
		appendStringInfoString(out, buf);
		if (strpbrk(buf, ".e") == NULL)
			appendStringInfoString(out, ".0");
	}
}

/* NaN and the infinities become strings. */
static void
append_numeric(StringInfo out, CqrsValueFormat *format, Datum value)
{
	char	   *text = OutputFunctionCall(&format->output, value);

	/* NaN, Infinity, -Infinity */
	if (strpbrk(text, "NI") != NULL)
		escape_json(out, text);
	else
		appendStringInfoString(out, text);
}

/* Infinite dates become the first and the last date that Python knows. */
static void
append_date(StringInfo out, DateADT date)
{
	struct pg_tm tm;
	char		buf[MAXDATELEN + 1];

	if (DATE_IS_NOBEGIN(date))
		appendStringInfoString(out, "\"0001-01-01\"");
	else if (DATE_IS_NOEND(date))
		appendStringInfoString(out, "\"9999-12-31\"");
	else
	{
		j2date(date + POSTGRES_EPOCH_JDATE, &tm.tm_year, &tm.tm_mon,
			   &tm.tm_mday);
		EncodeDateOnly(&tm, USE_ISO_DATES, buf);
		appendStringInfo(out, "\"%s\"", buf);
	}
}

static void
append_text(StringInfo out, Datum value)
{
	text	   *string = DatumGetTextPP(value);

	append_string(out, VARDATA_ANY(string), VARSIZE_ANY_EXHDR(string));
}

/* Most strings have nothing to escape, and are copied as a whole. */
static void
append_string(StringInfo out, const char *string, int length)
{
	if (needs_escapes(string, length))
		escape_json(out, pnstrdup(string, length));
	else
	{
		appendStringInfoChar(out, '"');
		appendBinaryStringInfo(out, string, length);
		appendStringInfoChar(out, '"');
	}
}

/* Whether JSON has the character in strings as an escape only. */
static inline bool
needs_escape(unsigned char c)
{
	return (c < ' ') | (c == '"') | (c == '\\');
}

/* In blocks of a fixed size, which compilers can vectorize. */
static bool
needs_escapes(const char *string, int length)
{
	const unsigned char *next = (const unsigned char *) string;
	const unsigned char *end = next + length;

	for (; end - next >= 16; next += 16)
	{
		unsigned char found = 0;

		for (int i = 0; i < 16; i++)
			found |= needs_escape(next[i]);
		if (found)
			return true;
	}
	for (; next < end; next++)
	{
		if (needs_escape(*next))
			return true;
	}
	return false;
}

/* As uuid_out(), without a call for each digit. */
static void
append_uuid(StringInfo out, Datum value)
{
	static const int groups[] = {4, 2, 2, 2, 6};
	const char *bytes = (const char *) DatumGetUUIDP(value)->data;
	char	   *next = reserve(out, 2 * UUID_LEN + lengthof(groups) + 2);

	for (int i = 0; i < lengthof(groups); i++)
	{
		*next++ = i == 0 ? '"' : '-';
		next += hex_encode(bytes, groups[i], next);
		bytes += groups[i];
	}
	*next++ = '"';
	set_end(out, next);
}

/*
 * YYYY-MM-DD HH:MM:SS[.ffffff][+00:00], in UTC if the type has a time zone.
 * The fraction has six digits or is missing, as in Python's str() of a
 * datetime.
 */
static void
append_timestamp(StringInfo out, Timestamp time, bool zone)
{
	bool		bc = false;

	if (TIMESTAMP_IS_NOBEGIN(time))
		appendStringInfoString(out, "0001-01-01 00:00:00");
	else if (TIMESTAMP_IS_NOEND(time))
		appendStringInfoString(out, "9999-12-31 23:59:59.999999");
	else
	{
		struct pg_tm tm;
		fsec_t		fraction;
		char	   *end;

		if (timestamp2tm(time, NULL, &tm, &fraction, NULL, NULL) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
					 errmsg("timestamp out of range")));
		bc = tm.tm_year <= 0;
		if (bc)
			tm.tm_year = 1 - tm.tm_year;
		end = reserve(out, MAXDATELEN + 1);
		EncodeDateTime(&tm, 0, false, 0, NULL, USE_ISO_DATES, end);
		end += strlen(end);
		if (fraction != 0)
		{
			*end++ = '.';
			end = pg_ultostr_zeropad(end, fraction, 6);
		}
		set_end(out, end);
	}
	if (zone)
		appendStringInfoString(out, "+00:00");
	if (bc)
		appendStringInfoString(out, " BC");
}

/* A line break in a json value can only be white space between tokens. */
static void
append_json(StringInfo out, CqrsValueFormat *format, Datum value)
{
	int			start = out->len;

	if (format->json_is_text)
		appendStringInfoString(out, TextDatumGetCString(FunctionCall1(&format->output, value)));
	else
		appendStringInfoString(out, OutputFunctionCall(&format->output, value));

	for (int i = start; i < out->len; i++)
	{
		if (out->data[i] == '\n' || out->data[i] == '\r')
			out->data[i] = ' ';
	}
}

/* As nested arrays, an empty one as []. */
static void
append_array(StringInfo out, CqrsValueFormat *format, Datum value)
{
	ArrayType  *array = DatumGetArrayTypeP(value);
	Datum	   *elems;
	bool	   *nulls;
	int			nelems;
	int			next = 0;

	if (ARR_NDIM(array) == 0)
	{
		appendStringInfoString(out, "[]");
		return;
	}
	deconstruct_array(array, ARR_ELEMTYPE(array), format->typlen,
					  format->typbyval, format->typalign,
					  &elems, &nulls, &nelems);
	append_array_level(out, format->element, elems, nulls, &next, 0,
					   ARR_NDIM(array), ARR_DIMS(array));
}

/*
 * Append one level of the dimensions of an array.  *next is the next element.
 */
static void
append_array_level(StringInfo out, CqrsValueFormat *element,
				   const Datum *elems, const bool *nulls, int *next,
				   int level, int ndim, const int *dims)
{
	appendStringInfoChar(out, '[');
	for (int i = 0; i < dims[level]; i++)
	{
		if (i > 0)
			appendStringInfoChar(out, ',');
		if (level + 1 < ndim)
			append_array_level(out, element, elems, nulls, next, level + 1,
							   ndim, dims);
		else
		{
			if (nulls[*next])
				appendStringInfoString(out, "null");
			else
				cqrs_value_append(out, element, elems[*next]);
			(*next)++;
		}
	}
	appendStringInfoChar(out, ']');
}

/* An object of the attributes.  Types may nest in a cycle through arrays. */
static void
append_composite(StringInfo out, Datum value)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(value);
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header),
											  HeapTupleHeaderGetTypMod(header));
	HeapTupleData tuple = {0};
	char		separator = '{';

	check_stack_depth();
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	tuple.t_data = header;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		isnull;
		Datum		attvalue;

		if (att->attisdropped)
			continue;
		appendStringInfoChar(out, separator);
		separator = ',';
		escape_json(out, NameStr(att->attname));
		appendStringInfoChar(out, ':');
		attvalue = heap_getattr(&tuple, i + 1, desc, &isnull);
		if (isnull)
			appendStringInfoString(out, "null");
		else
		{
			CqrsValueFormat format;

			cqrs_value_init(&format, att->atttypid);
			cqrs_value_append(out, &format, attvalue);
		}
	}
	if (separator == '{')
		appendStringInfoChar(out, '{');
	appendStringInfoChar(out, '}');
	ReleaseTupleDesc(desc);
}
