/*-------------------------------------------------------------------------
 *
 * value_in.c
 *	  Values of each type, read from the JSON of messages.
 *
 * The inverse of compose/value.c, and lenient as django-cqrs's replicas are.
 * A value is the text of the JSON, or the characters of a string, given to the
 * input function of the type.  Exceptions:
 *
 *	  whole numbers		5.0 and 1e3 are accepted
 *	  timestamps		an offset counts for timestamp, too, which becomes UTC;
 *						also in arrays, ranges and composite types
 *	  json, jsonb		the JSON itself
 *	  arrays			of JSON arrays; a string is an array literal
 *	  composite types	of JSON objects, by the names of attributes; a string
 *						is a row literal
 *	  hstore			of JSON objects
 *
 * Numbers go from text to value, never through double.  The types of most
 * values have a short cut past the input function.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "apply/iso_time.h"
#include "apply/json_text.h"
#include "apply/utc_literal.h"
#include "apply/value_in.h"
#include "base/compat.h"

typedef enum InputKind
{
	INPUT_PLAIN,
	INPUT_TEXT,					/* text, or varchar without a limit */
	INPUT_INTEGER,				/* smallint, integer, bigint */
	INPUT_TIMESTAMP,			/* with or without time zone */
	INPUT_JSON,
	INPUT_ARRAY,
	INPUT_RANGE,				/* or multirange */
	INPUT_COMPOSITE,
	INPUT_HSTORE
} InputKind;

struct CqrsValueInput
{
	InputKind	kind;
	Oid			type;			/* not a domain */
	int32		typmod;
	Oid			domain;			/* InvalidOid: none */
	void	   *domain_extra;
	bool		json_null;
	FmgrInfo	function;
	Oid			ioparam;
	MemoryContext context;		/* of the input */
	/* of arrays, ranges and composite types, once a literal is read */
	bool		literal_known;
	CqrsUtcLiteral *literal;	/* NULL: literals have no timestamps */
	/* of arrays */
	CqrsValueInput *element;
	int16		typlen;
	bool		typbyval;
	char		typalign;
	/* of composite types */
	TupleDesc	desc;
	CqrsValueInput **attributes;
};

/* The elements of an array while its JSON is read. */
typedef struct ArrayReader
{
	CqrsValueInput *input;
	int			ndim;
	int			dims[MAXDIM];
	Datum	   *elems;
	bool	   *nulls;
	int			nelems;
	int			allocated;
} ArrayReader;

static InputKind kind_of(Oid type, int32 typmod);
static InputKind kind_by_typtype(Oid type);
static bool is_hstore(Oid type);
static void prepare_attributes(CqrsValueInput *input);
static Datum read_base(CqrsValueInput *input, const CqrsJsonValue *json,
					   bool *isnull);
static Datum read_plain(CqrsValueInput *input, char *text);
static Datum read_literal(CqrsValueInput *input, char *text);
static Datum read_text(const CqrsJsonValue *json);
static Datum read_integer(CqrsValueInput *input, const CqrsJsonValue *json);
static Datum read_timestamp(CqrsValueInput *input, const CqrsJsonValue *json);
static Datum read_array(CqrsValueInput *input, const CqrsJsonValue *json);
static void read_elements(ArrayReader *reader, const CqrsJsonValue *json,
						  int level);
static void add_element(ArrayReader *reader, const CqrsJsonValue *json);
pg_noreturn static void not_rectangular(void);
static Datum read_composite(CqrsValueInput *input, const CqrsJsonValue *json);

CqrsValueInput *
cqrs_value_in_prepare(Oid type, int32 typmod, bool json_null)
{
	CqrsValueInput *input = palloc0(sizeof(CqrsValueInput));
	Oid			function;

	check_stack_depth();
	input->context = CurrentMemoryContext;
	input->typmod = typmod;
	input->type = getBaseTypeAndTypmod(type, &input->typmod);
	input->domain = input->type != type ? type : InvalidOid;
	input->kind = kind_of(input->type, input->typmod);
	input->json_null = json_null && input->kind == INPUT_JSON;
	/* In the time zone UTC the values of both types are the same. */
	getTypeInputInfo(input->kind == INPUT_TIMESTAMP ? TIMESTAMPTZOID :
					 input->type, &function, &input->ioparam);
	fmgr_info(function, &input->function);
	if (input->kind == INPUT_ARRAY)
	{
		Oid			element = get_element_type(input->type);

		get_typlenbyvalalign(element, &input->typlen, &input->typbyval,
							 &input->typalign);
		input->element = cqrs_value_in_prepare(element, input->typmod, false);
	}
	return input;
}

/* How a type, which is no domain, reads JSON. */
static InputKind
kind_of(Oid type, int32 typmod)
{
	switch (type)
	{
		case TEXTOID:
			return INPUT_TEXT;
		case VARCHAROID:
			return typmod == -1 ? INPUT_TEXT : INPUT_PLAIN;
		case INT2OID:
		case INT4OID:
		case INT8OID:
			return INPUT_INTEGER;
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return INPUT_TIMESTAMP;
		case JSONOID:
		case JSONBOID:
			return INPUT_JSON;
		default:
			if (OidIsValid(get_element_type(type)))
				return INPUT_ARRAY;
			return kind_by_typtype(type);
	}
}

/* The same for types that are not known by their OIDs. */
static InputKind
kind_by_typtype(Oid type)
{
	switch (get_typtype(type))
	{
		case TYPTYPE_COMPOSITE:
			return INPUT_COMPOSITE;
		case TYPTYPE_RANGE:
		case TYPTYPE_MULTIRANGE:
			return INPUT_RANGE;
		default:
			return is_hstore(type) ? INPUT_HSTORE : INPUT_PLAIN;
	}
}

/* Whether a type is hstore of the extension. */
static bool
is_hstore(Oid type)
{
	Oid			extension = getExtensionOfObject(TypeRelationId, type);
	HeapTuple	tuple;
	bool		is;

	if (!OidIsValid(extension) ||
		extension != get_extension_oid("hstore", true))
		return false;
	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	is = HeapTupleIsValid(tuple) &&
		strcmp(NameStr(((Form_pg_type) GETSTRUCT(tuple))->typname),
			   "hstore") == 0;
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return is;
}

Datum
cqrs_value_in_read(CqrsValueInput *input, const CqrsJsonValue *json,
				   bool *isnull)
{
	Datum		value = (Datum) 0;

	*isnull = json == NULL ||
		(json->kind == CQRS_JSON_NULL && !input->json_null);
	if (!*isnull)
		value = read_base(input, json, isnull);
	if (OidIsValid(input->domain))
	{
		/* Its functions may apply a message that has the same column. */
		void	   *extra = input->domain_extra;

		input->domain_extra = NULL;
		domain_check(value, *isnull, input->domain, &extra, input->context);
		input->domain_extra = extra;
	}
	return value;
}

/* A value that is not null, without the constraints of a domain. */
static Datum
read_base(CqrsValueInput *input, const CqrsJsonValue *json, bool *isnull)
{
	switch (input->kind)
	{
		case INPUT_TEXT:
			return read_text(json);
		case INPUT_INTEGER:
			return read_integer(input, json);
		case INPUT_TIMESTAMP:
			return read_timestamp(input, json);
		case INPUT_JSON:
			return read_plain(input, cqrs_json_text_verbatim(json));
		case INPUT_ARRAY:
			if (json->kind == CQRS_JSON_ARRAY)
				return read_array(input, json);
			return read_literal(input, cqrs_json_text_characters(json));
		case INPUT_RANGE:
			return read_literal(input, cqrs_json_text_characters(json));
		case INPUT_COMPOSITE:
			if (json->kind == CQRS_JSON_OBJECT)
				return read_composite(input, json);
			return read_literal(input, cqrs_json_text_characters(json));
		case INPUT_HSTORE:
			if (json->kind == CQRS_JSON_OBJECT)
				return read_plain(input, cqrs_json_text_hstore(json));
			break;
		case INPUT_PLAIN:
			break;
	}
	return read_plain(input, cqrs_json_text_characters(json));
}

/*
 * By the input function of the type.  What the function remembers serves one
 * call at a time: as above.
 */
static Datum
read_plain(CqrsValueInput *input, char *text)
{
	FmgrInfo	function = input->function;
	Datum		value;

	input->function.fn_extra = NULL;
	value = InputFunctionCall(&function, text, input->ioparam, input->typmod);
	input->function.fn_extra = function.fn_extra;
	return value;
}

/* A literal of a type that may have timestamps in it. */
static Datum
read_literal(CqrsValueInput *input, char *text)
{
	if (!input->literal_known)
	{
		MemoryContext caller = MemoryContextSwitchTo(input->context);

		input->literal = cqrs_utc_literal_prepare(input->type);
		input->literal_known = true;
		MemoryContextSwitchTo(caller);
	}
	if (input->literal != NULL)
		text = cqrs_utc_literal(input->literal, text);
	return read_plain(input, text);
}

/* For text types without a limit: no input function is called. */
static Datum
read_text(const CqrsJsonValue *json)
{
	if (json->kind == CQRS_JSON_STRING && !json->escaped)
		return PointerGetDatum(cstring_to_text_with_len(json->start + 1,
														json->length - 2));
	return CStringGetTextDatum(cqrs_json_text_characters(json));
}

/* Without the input function, where the number is a plain one and in range. */
static Datum
read_integer(CqrsValueInput *input, const CqrsJsonValue *json)
{
	int64		number;

	if (cqrs_json_text_digits(json, &number))
	{
		if (input->type == INT8OID)
			return Int64GetDatum(number);
		if (input->type == INT4OID && number >= PG_INT32_MIN &&
			number <= PG_INT32_MAX)
			return Int32GetDatum((int32) number);
		if (input->type == INT2OID && number >= PG_INT16_MIN &&
			number <= PG_INT16_MAX)
			return Int16GetDatum((int16) number);
	}
	return read_plain(input, cqrs_json_text_whole(cqrs_json_text_characters(json)));
}

/* Without the input function, where the string is a time of ISO 8601. */
static Datum
read_timestamp(CqrsValueInput *input, const CqrsJsonValue *json)
{
	Timestamp	time;

	if (json->kind == CQRS_JSON_STRING &&
		cqrs_iso_time_read(json->start + 1, json->length - 2, &time))
	{
		if (input->typmod == -1)
			return TimestampGetDatum(time);
		return DirectFunctionCall2(timestamp_scale, TimestampGetDatum(time),
								   Int32GetDatum(input->typmod));
	}
	return read_plain(input, cqrs_json_text_characters(json));
}

/*
 * An array.  JSON arrays are its dimensions, as long as the first elements are
 * JSON arrays.  Elements that may be arrays themselves (json, and domains over
 * arrays) make arrays of one dimension.
 */
static Datum
read_array(CqrsValueInput *input, const CqrsJsonValue *json)
{
	ArrayReader reader = {0};
	int			lower[MAXDIM];

	reader.input = input;
	read_elements(&reader, json, 0);
	if (reader.nelems == 0)
		return PointerGetDatum(construct_empty_array(input->element->domain ?
													 input->element->domain :
													 input->element->type));
	for (int i = 0; i < reader.ndim; i++)
		lower[i] = 1;
	return PointerGetDatum(construct_md_array(reader.elems, reader.nulls,
											  reader.ndim, reader.dims, lower,
											  input->element->domain ?
											  input->element->domain :
											  input->element->type,
											  input->typlen, input->typbyval,
											  input->typalign));
}

/*
 * Add the elements of a JSON array, and of arrays in it, to the reader.
 * "level" is the dimension, from 0.  The first array of a level sets the
 * length of all, or else an error is raised.
 */
static void
read_elements(ArrayReader *reader, const CqrsJsonValue *json, int level)
{
	CqrsValueInput *element = reader->input->element;
	bool		may_nest = element->kind != INPUT_JSON &&
	element->kind != INPUT_ARRAY;
	CqrsJsonMembers elements = {0};

	cqrs_json_scan_array(json, &elements);
	if (level == reader->ndim && reader->nelems == 0)
	{
		if (level == MAXDIM)
			not_rectangular();
		reader->dims[reader->ndim++] = elements.nmembers;
	}
	if (level >= reader->ndim || reader->dims[level] != elements.nmembers)
		not_rectangular();
	for (int i = 0; i < elements.nmembers; i++)
	{
		CqrsJsonValue *value = &elements.members[i].value;

		if (may_nest && value->kind == CQRS_JSON_ARRAY)
			read_elements(reader, value, level + 1);
		else if (level + 1 == reader->ndim)
			add_element(reader, value);
		else
			not_rectangular();
	}
}

/* Read an element, and add it to the reader. */
static void
add_element(ArrayReader *reader, const CqrsJsonValue *json)
{
	if (reader->nelems == reader->allocated)
	{
		reader->allocated = Max(8, reader->allocated * 2);
		if (reader->elems == NULL)
		{
			reader->elems = palloc(reader->allocated * sizeof(Datum));
			reader->nulls = palloc(reader->allocated * sizeof(bool));
		}
		else
		{
			reader->elems = repalloc(reader->elems,
									 reader->allocated * sizeof(Datum));
			reader->nulls = repalloc(reader->nulls,
									 reader->allocated * sizeof(bool));
		}
	}
	reader->elems[reader->nelems] =
		cqrs_value_in_read(reader->input->element, json,
						   &reader->nulls[reader->nelems]);
	reader->nelems++;
}

static void
not_rectangular(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
			 errmsg("malformed JSON array for an array"),
			 errdetail("Arrays have up to %d dimensions, and sub-arrays with matching dimensions.",
					   MAXDIM)));
}

/* The attributes of a composite type, when the first value is read. */
static void
prepare_attributes(CqrsValueInput *input)
{
	MemoryContext caller = MemoryContextSwitchTo(input->context);
	CqrsValueInput **attributes;

	input->desc = lookup_rowtype_tupdesc_copy(input->type, input->typmod);
	attributes = palloc0(sizeof(CqrsValueInput *) * (input->desc->natts + 1));
	for (int i = 0; i < input->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(input->desc, i);

		if (!att->attisdropped)
			attributes[i] = cqrs_value_in_prepare(att->atttypid,
												  att->atttypmod, false);
	}
	/* After an error (a cancellation) the next value finds none. */
	input->attributes = attributes;
	MemoryContextSwitchTo(caller);
}

/*
 * A row from a JSON object: an attribute without a key is null, a key without
 * an attribute is ignored.
 */
static Datum
read_composite(CqrsValueInput *input, const CqrsJsonValue *json)
{
	CqrsJsonMembers object = {0};
	Datum	   *values;
	bool	   *nulls;
	bool		bare;

	check_stack_depth();
	if (input->attributes == NULL)
		prepare_attributes(input);
	if (cqrs_json_scan_object(json->start, json->length, &object, NULL, NULL,
							  &bare) != NULL)
		elog(ERROR, "invalid JSON object");
	values = palloc0(sizeof(Datum) * input->desc->natts);
	nulls = palloc(sizeof(bool) * input->desc->natts);
	for (int i = 0; i < input->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(input->desc, i);

		nulls[i] = true;
		if (!att->attisdropped)
			values[i] = cqrs_value_in_read(input->attributes[i],
										   cqrs_json_scan_find(&object,
															   NameStr(att->attname)),
										   &nulls[i]);
	}
	return HeapTupleGetDatum(heap_form_tuple(input->desc, values, nulls));
}
