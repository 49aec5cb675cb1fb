/*-------------------------------------------------------------------------
 *
 * serialize.c
 *	  Rows as the JSON of messages.
 *
 * What each type becomes follows django-cqrs, so that its replicas read it:
 * docs/wire-format.md has the table.  A master's format (keys already escaped,
 * the way to write each column) is made at its first use and lives with the
 * master in the cache of catalog.c.
 *
 * Output must not depend on the session.  Types whose text does depend on
 * settings are written with these pinned; the caller pins once for many rows.
 * Values may be toasted: callers have a snapshot.  Everything is allocated in
 * the caller's context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "catalog/dependency.h"
#include "common/shortest_dec.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "pgtime.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "serialize.h"

/* Room for any integer as text. */
#define INTEGER_BYTES	24

/* The way in which a value is written. */
typedef enum Style
{
	STYLE_BOOL,
	STYLE_INT2,
	STYLE_INT4,
	STYLE_INT8,
	STYLE_FLOAT4,
	STYLE_FLOAT8,
	STYLE_NUMERIC,
	STYLE_DATE,
	STYLE_TIMESTAMP,
	STYLE_TIMESTAMPTZ,
	STYLE_TEXT,					/* a varlena string */
	STYLE_JSON,					/* the output function gives JSON */
	STYLE_ARRAY,
	STYLE_COMPOSITE,
	STYLE_STRING				/* the output function's text, quoted */
} Style;

typedef struct ValueFormat
{
	Style		style;
	FmgrInfo	output;			/* STYLE_NUMERIC, STYLE_JSON, STYLE_STRING */
	bool		json_is_text;	/* "output" returns a text, not a cstring */

	/* STYLE_ARRAY */
	struct ValueFormat *element;
	int16		typlen;
	bool		typbyval;
	char		typalign;
} ValueFormat;

typedef struct FieldFormat
{
	AttrNumber	attnum;
	char	   *key;			/* "{" or ",", then the key, then ":" */
	int			key_length;
	char	   *mapped_key;		/* tracked fields: the key alone, escaped */
	char	   *column_key;		/* and the name of the column */
	ValueFormat value;
} FieldFormat;

struct CqrsRowFormat
{
	FieldFormat *fields;
	FieldFormat *tracked;
	bool		uses_settings;
};

static struct CqrsRowFormat *row_format(Relation rel, CqrsMaster *master);
static FieldFormat *make_fields(Relation rel, const CqrsField *fields,
								int nfields);
static bool any_uses_settings(const FieldFormat *fields, int nfields);
static void init_field(FieldFormat *format, Relation rel,
					   const CqrsField *field, bool first);
static void init_value(ValueFormat *format, Oid type);
static bool hstore_output(Oid type, FmgrInfo *output);
static char *escaped(const char *string);
static void append_value(StringInfo out, ValueFormat *format, Datum value);
static void append_float(StringInfo out, double value, bool single);
static void append_numeric(StringInfo out, ValueFormat *format, Datum value);
static void append_date(StringInfo out, DateADT date);
static void append_timestamp(StringInfo out, Timestamp time, bool zone);
static void append_json(StringInfo out, ValueFormat *format, Datum value);
static void append_array(StringInfo out, ValueFormat *format, Datum value);
static void append_array_level(StringInfo out, ValueFormat *element,
							   const Datum *elems, const bool *nulls,
							   int *next, int level, int ndim,
							   const int *dims);
static void append_composite(StringInfo out, Datum value);
static void pin_setting(const char *name, const char *value);

bool
cqrs_serialize_uses_settings(Relation rel, const CqrsRelation *relation)
{
	ListCell   *lc;

	foreach(lc, relation->masters)
	{
		if (row_format(rel, lfirst(lc))->uses_settings)
			return true;
	}
	return false;
}

int
cqrs_serialize_pin_settings(void)
{
	int			level = NewGUCNestLevel();

	if (DateStyle != USE_ISO_DATES)
		pin_setting("datestyle", "ISO");
	if (IntervalStyle != INTSTYLE_POSTGRES)
		pin_setting("intervalstyle", "postgres");
	if (extra_float_digits < 1)
		pin_setting("extra_float_digits", "1");
	if (bytea_output != BYTEA_OUTPUT_HEX)
		pin_setting("bytea_output", "hex");
	if (strcmp(pg_get_timezone_name(session_timezone), "UTC") != 0)
		pin_setting("timezone", "UTC");
	return level;
}

void
cqrs_serialize_row(StringInfo out, Relation rel, CqrsMaster *master,
				   const CqrsRow *row)
{
	FieldFormat *fields = row_format(rel, master)->fields;

	for (int i = 0; i < master->nfields; i++)
	{
		FieldFormat *field = &fields[i];

		appendBinaryStringInfo(out, field->key, field->key_length);
		if (row->nulls[field->attnum - 1])
			appendBinaryStringInfo(out, "null", 4);
		else
			append_value(out, &field->value, row->values[field->attnum - 1]);
	}
	appendStringInfoChar(out, '}');
}

/*
 * django-cqrs names the columns of a new row by their column names and those
 * of a changed row by their keys; its replicas may rely on either.
 */
void
cqrs_serialize_previous(StringInfo out, Relation rel, CqrsMaster *master,
						const CqrsRow *before, const CqrsRow *after)
{
	FieldFormat *tracked = row_format(rel, master)->tracked;
	char		separator = '{';

	for (int i = 0; i < master->ntracked; i++)
	{
		FieldFormat *field = &tracked[i];
		int			att = field->attnum - 1;

		if (before == NULL)
		{
			if (after->nulls[att])
				continue;
			appendStringInfo(out, "%c%s:null", separator, field->column_key);
		}
		else
		{
			if (cqrs_row_same_column(rel, field->attnum, before, after))
				continue;
			appendStringInfo(out, "%c%s:", separator, field->mapped_key);
			if (before->nulls[att])
				appendStringInfoString(out, "null");
			else
				append_value(out, &field->value, before->values[att]);
		}
		separator = ',';
	}
	appendStringInfoString(out, separator == '{' ? "{}" : "}");
}

void
cqrs_serialize_key(StringInfo out, Relation rel, const CqrsRelation *relation,
				   const CqrsRow *row)
{
	if (relation->nkeys > 1)
		appendStringInfoChar(out, '[');
	for (int i = 0; i < relation->nkeys; i++)
	{
		AttrNumber	attnum = relation->keys[i].attnum;
		ValueFormat format;

		init_value(&format, TupleDescAttr(RelationGetDescr(rel),
										  attnum - 1)->atttypid);
		if (i > 0)
			appendStringInfoChar(out, ',');
		append_value(out, &format, row->values[attnum - 1]);
	}
	if (relation->nkeys > 1)
		appendStringInfoChar(out, ']');
}

void
cqrs_serialize_timestamptz(StringInfo out, TimestampTz time)
{
	append_timestamp(out, time, true);
}

static struct CqrsRowFormat *
row_format(Relation rel, CqrsMaster *master)
{
	struct CqrsRowFormat *format;
	MemoryContext caller;

	if (likely(master->format != NULL))
		return master->format;

	caller = MemoryContextSwitchTo(GetMemoryChunkContext(master));
	format = palloc(sizeof(struct CqrsRowFormat));
	format->fields = make_fields(rel, master->fields, master->nfields);
	format->tracked = make_fields(rel, master->tracked, master->ntracked);
	format->uses_settings = any_uses_settings(format->fields, master->nfields) ||
		any_uses_settings(format->tracked, master->ntracked);
	MemoryContextSwitchTo(caller);

	master->format = format;
	return format;
}

static FieldFormat *
make_fields(Relation rel, const CqrsField *fields, int nfields)
{
	FieldFormat *formats = palloc0(sizeof(FieldFormat) * (nfields + 1));

	for (int i = 0; i < nfields; i++)
		init_field(&formats[i], rel, &fields[i], i == 0);
	return formats;
}

static bool
any_uses_settings(const FieldFormat *fields, int nfields)
{
	for (int i = 0; i < nfields; i++)
	{
		if (fields[i].value.style == STYLE_STRING ||
			fields[i].value.style == STYLE_ARRAY ||
			fields[i].value.style == STYLE_COMPOSITE)
			return true;
	}
	return false;
}

static void
init_field(FieldFormat *format, Relation rel, const CqrsField *field,
		   bool first)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel),
										  field->attnum - 1);

	format->attnum = field->attnum;
	format->mapped_key = escaped(field->key);
	format->column_key = escaped(field->column);
	format->key = psprintf("%c%s:", first ? '{' : ',', format->mapped_key);
	format->key_length = strlen(format->key);
	init_value(&format->value, att->atttypid);
}

/* Decide how values of a type are written.  Domains are as their base types. */
static void
init_value(ValueFormat *format, Oid type)
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
			format->style = STYLE_BOOL;
			return;
		case INT2OID:
			format->style = STYLE_INT2;
			return;
		case INT4OID:
			format->style = STYLE_INT4;
			return;
		case INT8OID:
			format->style = STYLE_INT8;
			return;
		case FLOAT4OID:
			format->style = STYLE_FLOAT4;
			return;
		case FLOAT8OID:
			format->style = STYLE_FLOAT8;
			return;
		case DATEOID:
			format->style = STYLE_DATE;
			return;
		case TIMESTAMPOID:
			format->style = STYLE_TIMESTAMP;
			return;
		case TIMESTAMPTZOID:
			format->style = STYLE_TIMESTAMPTZ;
			return;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			format->style = STYLE_TEXT;
			return;
		case NUMERICOID:
			format->style = STYLE_NUMERIC;
			break;
		case JSONOID:
		case JSONBOID:
			format->style = STYLE_JSON;
			break;
		default:
			format->style = STYLE_STRING;
			break;
	}

	if (format->style == STYLE_STRING)
	{
		element = get_element_type(type);
		get_type_category_preferred(type, &category, &preferred);
		if (OidIsValid(element))
		{
			format->style = STYLE_ARRAY;
			format->element = palloc(sizeof(ValueFormat));
			init_value(format->element, element);
			get_typlenbyvalalign(element, &format->typlen, &format->typbyval,
								 &format->typalign);
			return;
		}
		if (type_is_rowtype(type))
		{
			format->style = STYLE_COMPOSITE;
			return;
		}
		if (hstore_output(type, &format->output))
		{
			format->style = STYLE_JSON;
			format->json_is_text = true;
			return;
		}
	}
	getTypeOutputInfo(type, &output, &is_varlena);
	fmgr_info_cxt(output, &format->output, CurrentMemoryContext);
}

/* Whether a type is the extension hstore's; if so, find its cast to JSON. */
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

static char *
escaped(const char *string)
{
	StringInfoData buf;

	initStringInfo(&buf);
	escape_json(&buf, string);
	return buf.data;
}

static void
append_value(StringInfo out, ValueFormat *format, Datum value)
{
	char		buf[INTEGER_BYTES];

	switch (format->style)
	{
		case STYLE_BOOL:
			appendStringInfoString(out, DatumGetBool(value) ? "true" : "false");
			break;
		case STYLE_INT2:
			appendBinaryStringInfo(out, buf, pg_itoa(DatumGetInt16(value), buf));
			break;
		case STYLE_INT4:
			appendBinaryStringInfo(out, buf, pg_ltoa(DatumGetInt32(value), buf));
			break;
		case STYLE_INT8:
			appendBinaryStringInfo(out, buf, pg_lltoa(DatumGetInt64(value), buf));
			break;
		case STYLE_FLOAT4:
			append_float(out, DatumGetFloat4(value), true);
			break;
		case STYLE_FLOAT8:
			append_float(out, DatumGetFloat8(value), false);
			break;
		case STYLE_NUMERIC:
			append_numeric(out, format, value);
			break;
		case STYLE_DATE:
			append_date(out, DatumGetDateADT(value));
			break;
		case STYLE_TIMESTAMP:
		case STYLE_TIMESTAMPTZ:
			appendStringInfoChar(out, '"');
			append_timestamp(out, DatumGetTimestamp(value),
							 format->style == STYLE_TIMESTAMPTZ);
			appendStringInfoChar(out, '"');
			break;
		case STYLE_TEXT:
			escape_json(out, TextDatumGetCString(value));
			break;
		case STYLE_JSON:
			append_json(out, format, value);
			break;
		case STYLE_ARRAY:
			append_array(out, format, value);
			break;
		case STYLE_COMPOSITE:
			append_composite(out, value);
			break;
		case STYLE_STRING:
			escape_json(out, OutputFunctionCall(&format->output, value));
			break;
	}
}

/* A number that always shows to be a float; what JSON lacks as a string. */
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

static void
append_numeric(StringInfo out, ValueFormat *format, Datum value)
{
	char	   *text = OutputFunctionCall(&format->output, value);

	/* NaN, Infinity, -Infinity */
	if (strpbrk(text, "NI") != NULL)
		escape_json(out, text);
	else
		appendStringInfoString(out, text);
}

/* Infinite dates are the first and the last that Python knows. */
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

/*
 * YYYY-MM-DD HH:MM:SS[.ffffff][+00:00], in UTC where there is a zone: six
 * digits or no fraction, as Python's str() of a datetime.
 */
static void
append_timestamp(StringInfo out, Timestamp time, bool zone)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (TIMESTAMP_IS_NOBEGIN(time))
		appendStringInfoString(out, "0001-01-01 00:00:00");
	else if (TIMESTAMP_IS_NOEND(time))
		appendStringInfoString(out, "9999-12-31 23:59:59.999999");
	else
	{
		bool		bc;

		if (timestamp2tm(time, NULL, &tm, &fsec, NULL, NULL) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
					 errmsg("timestamp out of range")));
		bc = tm.tm_year <= 0;
		appendStringInfo(out, "%04d-%02d-%02d %02d:%02d:%02d",
						 bc ? 1 - tm.tm_year : tm.tm_year,
						 tm.tm_mon, tm.tm_mday,
						 tm.tm_hour, tm.tm_min, tm.tm_sec);
		if (fsec != 0)
			appendStringInfo(out, ".%06d", fsec);
		if (bc)
		{
			appendStringInfoString(out, zone ? "+00:00 BC" : " BC");
			return;
		}
	}
	if (zone)
		appendStringInfoString(out, "+00:00");
}

/* A line break in a json value can only be white space between tokens. */
static void
append_json(StringInfo out, ValueFormat *format, Datum value)
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

static void
append_array(StringInfo out, ValueFormat *format, Datum value)
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

static void
append_array_level(StringInfo out, ValueFormat *element, const Datum *elems,
				   const bool *nulls, int *next, int level, int ndim,
				   const int *dims)
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
				append_value(out, element, elems[*next]);
			(*next)++;
		}
	}
	appendStringInfoChar(out, ']');
}

/* An object of the attributes.  Types may nest in a circle through arrays. */
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
			ValueFormat format;

			init_value(&format, att->atttypid);
			append_value(out, &format, attvalue);
		}
	}
	if (separator == '{')
		appendStringInfoChar(out, '{');
	appendStringInfoChar(out, '}');
	ReleaseTupleDesc(desc);
}

static void
pin_setting(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}
