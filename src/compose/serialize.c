/*-------------------------------------------------------------------------
 *
 * serialize.c
 *	  Rows as the JSON of messages.
 *
 * A master's format has the escaped keys and the way in which value.c writes
 * each column.  It is made at its first use and lives with the master in the
 * cache of relation.c.
 *
 * Output must not depend on the session.  Types whose text depends on settings
 * are written with these settings pinned; the caller pins once for many rows.
 * Users' functions and expressions are read and run with more of them pinned.
 * Values may be toasted: callers have a snapshot.  Everything is allocated in
 * the caller's context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/gin.h"
#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "parser/parse_expr.h"
#include "parser/parser.h"
#include "pgtime.h"
#include "tsearch/ts_cache.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/xml.h"

#include "base/guc.h"
#include "compose/serialize.h"
#include "compose/value.h"

typedef struct FieldFormat
{
	AttrNumber	attnum;
	char	   *key;			/* "{" or ",", then the key, then ":" */
	int			key_length;
	char	   *mapped_key;		/* tracked fields: the key alone, escaped */
	char	   *column_key;		/* and the name of the column */
	CqrsValueFormat value;
} FieldFormat;

struct CqrsRowFormat
{
	FieldFormat *fields;
	FieldFormat *tracked;
	bool		uses_settings;
};

static struct CqrsRowFormat *row_format(Relation rel, CqrsMaster *master);
static void append_readable(StringInfo out, Oid type, Datum value);
static CqrsValueFormat *key_format(Relation rel, CqrsField *keys,
								   CqrsField *key);
static FieldFormat *make_fields(Relation rel, const CqrsField *fields,
								int nfields);
static bool any_uses_settings(const FieldFormat *fields, int nfields);
static void init_field(FieldFormat *format, Relation rel,
					   const CqrsField *field, bool first);
static char *escaped(const char *string);

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
	static const char search_path[] = "pg_catalog, pg_temp";
	int			level = NewGUCNestLevel();
	const char *monetary = GetConfigOptionResetString("lc_monetary");

	if (DateStyle != USE_ISO_DATES)
		cqrs_guc_pin("datestyle", "ISO");
	if (IntervalStyle != INTSTYLE_POSTGRES)
		cqrs_guc_pin("intervalstyle", "postgres");
	if (extra_float_digits < 1)
		cqrs_guc_pin("extra_float_digits", "1");
	if (bytea_output != BYTEA_OUTPUT_HEX)
		cqrs_guc_pin("bytea_output", "hex");
	if (strcmp(pg_get_timezone_name(session_timezone), "UTC") != 0)
		cqrs_guc_pin("timezone", "UTC");

	/* Not "C": the worth of an amount depends on where it was entered. */
	if (strcmp(GetConfigOption("lc_monetary", false, false), monetary) != 0)
		cqrs_guc_pin("lc_monetary", monetary);

	/* So names of objects are written with their schemas. */
	if (strcmp(namespace_search_path, search_path) != 0)
		cqrs_guc_pin("search_path", search_path);
	return level;
}

/*
 * Of settings that any role can change, those that change what the text of an
 * expression or a function means, how literals in it are read, and what the
 * functions that it calls return.  The values are PostgreSQL's defaults, and
 * not those of the server's configuration, which cannot be told from those of
 * the writer.
 */
int
cqrs_serialize_pin_all_settings(void)
{
	int			level = cqrs_serialize_pin_settings();

	/* How the text is read. */
	cqrs_guc_pin("standard_conforming_strings", "on");
	if (backslash_quote != BACKSLASH_QUOTE_SAFE_ENCODING)
		cqrs_guc_pin("backslash_quote", "safe_encoding");
	if (Transform_null_equals)
		cqrs_guc_pin("transform_null_equals", "off");

	/* How literals are read. */
	if (DateOrder != DATEORDER_MDY)
		cqrs_guc_pin("DateStyle", "ISO, MDY");
	if (!Array_nulls)
		cqrs_guc_pin("array_nulls", "on");
	if (xmloption != XMLOPTION_CONTENT)
		cqrs_guc_pin("xmloption", "content");
	cqrs_guc_pin("timezone_abbreviations", "Default");

	/* What functions return, and what queries of them see. */
	cqrs_guc_pin("lc_numeric", "C");
	cqrs_guc_pin("lc_time", "C");
	if (GinFuzzySearchLimit != 0)
		cqrs_guc_pin("gin_fuzzy_search_limit", "0");
	if (xmlbinary != XMLBINARY_BASE64)
		cqrs_guc_pin("xmlbinary", "base64");
	if (strcmp(TSCurrentConfig, "pg_catalog.simple") != 0)
		cqrs_guc_pin("default_text_search_config", "pg_catalog.simple");
	if (quote_all_identifiers)
		cqrs_guc_pin("quote_all_identifiers", "off");
	if (!row_security)
		cqrs_guc_pin("row_security", "on");
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
			cqrs_value_append(out, &field->value, row->values[field->attnum - 1]);
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
				cqrs_value_append(out, &field->value, before->values[att]);
		}
		separator = ',';
	}
	appendStringInfoString(out, separator == '{' ? "{}" : "}");
}

/*
 * Not by row_to_json(): the input function of a type need not read what its cast
 * to JSON writes (that of hstore does not), and arrays would lose their bounds.
 * Text that is no JSON is read by the input function also where the column is an
 * array or a composite.
 */
void
cqrs_serialize_readable(StringInfo out, TupleDesc desc, Datum row)
{
	HeapTupleData tuple = {0};
	char		separator = '{';

	tuple.t_data = DatumGetHeapTupleHeader(row);
	tuple.t_len = HeapTupleHeaderGetDatumLength(tuple.t_data);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Datum		value;
		bool		isnull;

		if (att->attisdropped)
			continue;
		appendStringInfoChar(out, separator);
		separator = ',';
		escape_json(out, NameStr(att->attname));
		appendStringInfoChar(out, ':');
		value = heap_getattr(&tuple, i + 1, desc, &isnull);
		if (isnull)
			appendStringInfoString(out, "null");
		else
			append_readable(out, att->atttypid, value);
	}
	appendStringInfoChar(out, '}');
}

static void
append_readable(StringInfo out, Oid type, Datum value)
{
	Oid			output;
	bool		is_varlena;
	char	   *text;

	getTypeOutputInfo(type, &output, &is_varlena);
	text = OidOutputFunctionCall(output, value);
	switch (getBaseType(type))
	{
		case BOOLOID:
			appendStringInfoString(out, DatumGetBool(value) ? "true" : "false");
			break;
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case JSONOID:
		case JSONBOID:
			appendStringInfoString(out, text);
			break;
		default:
			escape_json(out, text);
			break;
	}
}

void
cqrs_serialize_key(StringInfo out, Relation rel, const CqrsRelation *relation,
				   const CqrsRow *row)
{
	if (relation->nkeys > 1)
		appendStringInfoChar(out, '[');
	for (int i = 0; i < relation->nkeys; i++)
	{
		CqrsField  *key = &relation->keys[i];

		if (i > 0)
			appendStringInfoChar(out, ',');
		if (row->nulls[key->attnum - 1])
			elog(ERROR, "column \"%s\" of a primary key is null", key->column);
		cqrs_value_append(out, key_format(rel, relation->keys, key),
						  row->values[key->attnum - 1]);
	}
	if (relation->nkeys > 1)
		appendStringInfoChar(out, ']');
}

/*
 * The format of a key column, made at its first use; it lives as long as the
 * array "keys".
 */
static CqrsValueFormat *
key_format(Relation rel, CqrsField *keys, CqrsField *key)
{
	CqrsValueFormat *format;
	MemoryContext caller;

	if (likely(key->format != NULL))
		return key->format;

	caller = MemoryContextSwitchTo(GetMemoryChunkContext(keys));
	format = palloc(sizeof(CqrsValueFormat));
	cqrs_value_init(format, TupleDescAttr(RelationGetDescr(rel),
										  key->attnum - 1)->atttypid);
	MemoryContextSwitchTo(caller);

	key->format = format;
	return format;
}

/*
 * The format of a master's rows, made at its first use; it lives with the
 * master.
 */
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

/* How each field is written; one more is zero. */
static FieldFormat *
make_fields(Relation rel, const CqrsField *fields, int nfields)
{
	FieldFormat *formats = palloc0(sizeof(FieldFormat) * (nfields + 1));

	for (int i = 0; i < nfields; i++)
		init_field(&formats[i], rel, &fields[i], i == 0);
	return formats;
}

/* Whether the text of any field depends on settings. */
static bool
any_uses_settings(const FieldFormat *fields, int nfields)
{
	for (int i = 0; i < nfields; i++)
	{
		if (cqrs_value_uses_settings(&fields[i].value))
			return true;
	}
	return false;
}

/* "first": the field begins the object. */
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
	cqrs_value_init(&format->value, att->atttypid);
}

/* A string as a JSON string. */
static char *
escaped(const char *string)
{
	StringInfoData buf;

	initStringInfo(&buf);
	escape_json(&buf, string);
	return buf.data;
}
