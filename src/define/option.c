/*-------------------------------------------------------------------------
 *
 * option.c
 *	  Typed options, as users give them.
 *
 * An option comes as an SQL argument or in a JSON object.  Both lead to the
 * same value and the same check.  What an option means for a table is not
 * checked here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "define/function.h"
#include "define/option.h"

#define NAMES_EXPECTED \
	"The value must be an array of column names, or null."
#define SECONDS_EXPECTED \
	"The value must be a whole number of seconds up to 2147483647, 0 for none, or null."
#define COUNT_EXPECTED \
	"The value must be a whole number up to 2147483647, 0 for none, or null for no limit."
#define INTERVAL_EXPECTED \
	"The value must be an interval from 1 millisecond to 30 days."
#define MAX_INTERVAL_MS	(INT64CONST(30) * SECS_PER_DAY * 1000)

static int	find_option(const CqrsOptionTable *table, const char *name);
static NullableDatum from_json(const CqrsOptionInfo *info, JsonbValue *value);
static List *json_names(const CqrsOptionInfo *info, JsonbValue *value);
static Datum json_integer(const CqrsOptionInfo *info, JsonbValue *value);
static Datum interval_of(const char *string);
static int64 interval_ms(Datum interval);
pg_noreturn static void refuse_integer(const CqrsOptionInfo *info);
static Datum check_choice(const CqrsOptionInfo *info, const char *value);
static int	number_of_choice(const CqrsOptionInfo *info, const char *value);

void
cqrs_option_set(const CqrsOptionTable *table, NullableDatum *values,
				int option, NullableDatum argument)
{
	const CqrsOptionInfo *info = &table->infos[option];
	NullableDatum *value = &values[option];

	*value = argument;
	switch (info->type)
	{
		case CQRS_TYPE_NAMES:
			/* Names are checked against the table later, nulls here. */
			if (!argument.isnull)
				(void) cqrs_option_text_list(argument.value);
			break;

		case CQRS_TYPE_OBJECT:
		case CQRS_TYPE_TEXT:
			break;

		case CQRS_TYPE_FUNCTION:
			if (!argument.isnull)
				value->value =
					CStringGetTextDatum(cqrs_function_qualified_name(info->name,
																	 DatumGetObjectId(argument.value)));
			break;

		case CQRS_TYPE_CHOICE:
			value->value = check_choice(info, argument.isnull ? NULL :
										TextDatumGetCString(argument.value));
			value->isnull = false;
			break;

		case CQRS_TYPE_BOOL:
			if (argument.isnull)
				value->value = BoolGetDatum(info->default_bool);
			value->isnull = false;
			break;

		case CQRS_TYPE_SECONDS:
		case CQRS_TYPE_COUNT:
			if (!argument.isnull && DatumGetInt32(argument.value) < 0)
				refuse_integer(info);
			break;

		case CQRS_TYPE_INTERVAL:
			if (argument.isnull)
				value->value = interval_of(info->default_text);
			value->isnull = false;
			if (interval_ms(value->value) < 1 ||
				interval_ms(value->value) > MAX_INTERVAL_MS)
				cqrs_option_refuse(info->name, INTERVAL_EXPECTED);
			break;
	}
	if (info->check != NULL && !value->isnull)
		info->check(info->name, value->value);
}

void
cqrs_option_set_json(const CqrsOptionTable *table, NullableDatum *values,
					 Jsonb *options)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	int			option = 0;

	if (!JB_ROOT_IS_OBJECT(options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object"),
				 errdetail("The value is an array or a scalar."),
				 errhint("An example of options is %s.", table->example)));

	it = JsonbIteratorInit(&options->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			option = find_option(table, pnstrdup(value.val.string.val,
												 value.val.string.len));
		else if (token == WJB_VALUE)
			cqrs_option_set(table, values, option,
							from_json(&table->infos[option], &value));
	}
}

/* Within cqrs_option_fill(): the field of the option, whose C type is "type". */
#define FIELD(type) \
	(AssertMacro(info->field_size == sizeof(type)), \
	 (type *) ((char *) object + info->field))

void
cqrs_option_fill(const CqrsOptionTable *table, const NullableDatum *values,
				 void *object)
{
	for (int i = 0; i < table->noptions; i++)
	{
		const CqrsOptionInfo *info = &table->infos[i];
		bool		isnull = values[i].isnull;
		Datum		value = values[i].value;
		int			choice;

		if (info->field_size == 0)
			continue;
		switch (info->type)
		{
			case CQRS_TYPE_NAMES:
			case CQRS_TYPE_OBJECT:
				Assert(false);
				break;

			case CQRS_TYPE_FUNCTION:
			case CQRS_TYPE_TEXT:
				*FIELD(char *) = cqrs_option_text(values[i]);
				break;

			case CQRS_TYPE_CHOICE:
				choice = isnull ? 0 :
					Max(number_of_choice(info, TextDatumGetCString(value)), 0);
				if (info->field_size == sizeof(bool))
					*FIELD(bool) = choice > 0;
				else
					*FIELD(int) = choice;
				break;

			case CQRS_TYPE_BOOL:
				*FIELD(bool) = !isnull && DatumGetBool(value);
				break;

			case CQRS_TYPE_SECONDS:
			case CQRS_TYPE_COUNT:
				*FIELD(int) = isnull ? -1 : DatumGetInt32(value);
				break;

			case CQRS_TYPE_INTERVAL:
				*FIELD(int64) = interval_ms(value);
				break;
		}
	}
}

/* The number of the option of that name. */
static int
find_option(const CqrsOptionTable *table, const char *name)
{
	StringInfoData valid;

	for (int i = 0; i < table->noptions; i++)
	{
		if (strcmp(table->infos[i].name, name) == 0)
			return i;
	}

	initStringInfo(&valid);
	for (int i = 0; i < table->noptions; i++)
		appendStringInfo(&valid, "%s%s", i > 0 ? ", " : "", table->infos[i].name);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized option \"%s\"", name),
			 errdetail("%s", table->where),
			 errhint("Valid options are: %s.", valid.data)));
}

/* The SQL argument that a JSON value stands for. */
static NullableDatum
from_json(const CqrsOptionInfo *info, JsonbValue *value)
{
	NullableDatum result = {.isnull = value->type == jbvNull};
	char	   *string = NULL;

	if (result.isnull)
		return result;
	if (value->type == jbvString)
		string = pnstrdup(value->val.string.val, value->val.string.len);

	switch (info->type)
	{
		case CQRS_TYPE_NAMES:
			result.value = cqrs_option_text_array(json_names(info, value));
			break;

		case CQRS_TYPE_OBJECT:
			result.value = JsonbPGetDatum(JsonbValueToJsonb(value));
			break;

		case CQRS_TYPE_FUNCTION:
			if (string == NULL)
				cqrs_option_refuse(info->name,
								   "The value must be the name of a function, or null.");
			result.value = DirectFunctionCall1(regprocin,
											   CStringGetDatum(string));
			break;

		case CQRS_TYPE_TEXT:
		case CQRS_TYPE_CHOICE:
			if (string == NULL)
				cqrs_option_refuse(info->name,
								   "The value must be a string, or null.");
			result.value = CStringGetTextDatum(string);
			break;

		case CQRS_TYPE_BOOL:
			if (value->type != jbvBool)
				cqrs_option_refuse(info->name,
								   "The value must be true or false.");
			result.value = BoolGetDatum(value->val.boolean);
			break;

		case CQRS_TYPE_SECONDS:
		case CQRS_TYPE_COUNT:
			result.value = json_integer(info, value);
			break;

		case CQRS_TYPE_INTERVAL:
			if (string == NULL)
				cqrs_option_refuse(info->name,
								   "The value must be an interval as a string, or null.");
			result.value = interval_of(string);
			break;
	}
	return result;
}

/* Names of columns from an array of JSON. */
static List *
json_names(const CqrsOptionInfo *info, JsonbValue *value)
{
	List	   *names = NIL;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	elem;

	if (value->type != jbvBinary ||
		!JsonContainerIsArray(value->val.binary.data))
		cqrs_option_refuse(info->name, NAMES_EXPECTED);

	it = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &elem, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (elem.type != jbvString)
			cqrs_option_refuse(info->name, NAMES_EXPECTED);
		names = lappend(names, pnstrdup(elem.val.string.val,
										elem.val.string.len));
	}
	return names;
}

/* An integer that is not negative, from a number of JSON. */
static Datum
json_integer(const CqrsOptionInfo *info, JsonbValue *value)
{
	char	   *digits;
	char	   *end;
	long		number;

	if (value->type != jbvNumeric)
		refuse_integer(info);
	digits = DatumGetCString(DirectFunctionCall1(numeric_out,
												 NumericGetDatum(value->val.numeric)));
	errno = 0;
	number = strtol(digits, &end, 10);
	if (errno != 0 || *end != '\0' || number < 0 || number > PG_INT32_MAX)
		refuse_integer(info);
	return Int32GetDatum((int32) number);
}

/* Raise the error for a value that is no integer of the option's range. */
static void
refuse_integer(const CqrsOptionInfo *info)
{
	if (info->type == CQRS_TYPE_SECONDS)
		cqrs_option_refuse(info->name, SECONDS_EXPECTED);
	/* Null is a value of its own. */
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\"", info->name),
			 errdetail("%s", COUNT_EXPECTED)));
}

/* The value of type interval; an error if the string is none. */
static Datum
interval_of(const char *string)
{
	return DirectFunctionCall3(interval_in, CStringGetDatum(string),
							   ObjectIdGetDatum(InvalidOid),
							   Int32GetDatum(-1));
}

static int64
interval_ms(Datum interval)
{
	const Interval *span = DatumGetIntervalP(interval);
	int64		days = (int64) span->month * DAYS_PER_MONTH + span->day;

	return days * SECS_PER_DAY * 1000 + span->time / 1000;
}

void
cqrs_option_refuse(const char *name, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\"", name),
			 errdetail("%s", problem),
			 errhint("Null stands for the default.")));
}

/* The value of an option that has choices; NULL gives the default. */
static Datum
check_choice(const CqrsOptionInfo *info, const char *value)
{
	StringInfoData valid;

	if (value == NULL)
		return CStringGetTextDatum(info->choices[0]);
	if (number_of_choice(info, value) >= 0)
		return CStringGetTextDatum(value);

	initStringInfo(&valid);
	for (int i = 0; i < lengthof(info->choices) && info->choices[i] != NULL; i++)
		appendStringInfo(&valid, "%s\"%s\"", i > 0 ? ", " : "",
						 info->choices[i]);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", info->name, value),
			 errhint("Valid values are: %s.", valid.data)));
}

/* Which of the choices the value is, or -1. */
static int
number_of_choice(const CqrsOptionInfo *info, const char *value)
{
	for (int i = 0; i < lengthof(info->choices) && info->choices[i] != NULL; i++)
	{
		if (strcmp(info->choices[i], value) == 0)
			return i;
	}
	return -1;
}

char *
cqrs_option_text(NullableDatum option)
{
	return option.isnull ? NULL : TextDatumGetCString(option.value);
}

List *
cqrs_option_names(NullableDatum option)
{
	return option.isnull ? NIL : cqrs_option_text_list(option.value);
}

List *
cqrs_option_text_list(Datum array)
{
	List	   *list = NIL;
	Datum	   *elems;
	bool	   *nulls;
	int			nelems;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false,
					  TYPALIGN_INT, &elems, &nulls, &nelems);
	for (int i = 0; i < nelems; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("names of fields must not be null"),
					 errdetail("Element %d of the array is null.", i + 1),
					 errhint("Name columns of the table, or use NULL instead of the array.")));
		list = lappend(list, TextDatumGetCString(elems[i]));
	}
	return list;
}

Datum
cqrs_option_text_array(List *names)
{
	Datum	   *elems = palloc(sizeof(Datum) * (list_length(names) + 1));
	ListCell   *lc;
	int			nelems = 0;

	foreach(lc, names)
		elems[nelems++] = CStringGetTextDatum(lfirst(lc));
	return PointerGetDatum(construct_array(elems, nelems, TEXTOID, -1, false,
										   TYPALIGN_INT));
}
