/*-------------------------------------------------------------------------
 *
 * options.c
 *	  Options of masters as users give them.
 *
 * cqrs_register() has them as arguments, cqrs_alter() as a JSON object.  Both
 * end in the same values, those of the columns of cqrs.master, and the same
 * checks.  What an option means for a table is not checked here but when the
 * master is resolved (relation.c, hooks.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "base/exchange.h"
#include "master/hooks.h"
#include "master/options.h"

typedef enum OptionKind
{
	OPTION_NAMES,				/* text[] of columns */
	OPTION_OBJECT,				/* jsonb */
	OPTION_FUNCTION,			/* regproc, kept as its qualified name */
	OPTION_EXPRESSION,			/* text */
	OPTION_EXCHANGE,			/* text, its name */
	OPTION_ROUTING_KEY,			/* text */
	OPTION_CHOICE,				/* text, one of some; the first by default */
	OPTION_BOOL,
	OPTION_SECONDS				/* integer */
} OptionKind;

typedef struct OptionInfo
{
	const char *name;
	OptionKind	kind;
	bool		default_bool;
	const char *choices[3];
} OptionInfo;

static const OptionInfo infos[CQRS_NOPTIONS] = {
	[CQRS_OPTION_FIELDS] = {"fields", OPTION_NAMES},
	[CQRS_OPTION_TRACKED_FIELDS] = {"tracked_fields", OPTION_NAMES},
	[CQRS_OPTION_FIELD_MAP] = {"field_map", OPTION_OBJECT},
	[CQRS_OPTION_META] = {"meta", OPTION_FUNCTION},
	[CQRS_OPTION_PRODUCE] = {"produce", OPTION_BOOL,.default_bool = true},
	[CQRS_OPTION_SERIALIZER] = {"serializer", OPTION_FUNCTION},
	[CQRS_OPTION_SYNC_WHEN] = {"sync_when", OPTION_EXPRESSION},
	[CQRS_OPTION_DELETE_DATA] = {"delete_data", OPTION_FUNCTION},
	[CQRS_OPTION_LEAVE] = {"leave", OPTION_CHOICE,
	.choices = {"ignore", "delete"}},
	[CQRS_OPTION_ON_ERROR] = {"on_error", OPTION_CHOICE,
	.choices = {"fail", "park"}},
	[CQRS_OPTION_SKIP_UNCHANGED] = {"skip_unchanged", OPTION_BOOL},
	[CQRS_OPTION_MESSAGE_TTL] = {"message_ttl", OPTION_SECONDS},
	[CQRS_OPTION_EXCHANGE] = {"exchange", OPTION_EXCHANGE},
	[CQRS_OPTION_ROUTING_KEY] = {"routing_key", OPTION_ROUTING_KEY},
	[CQRS_OPTION_ON_TRUNCATE] = {"on_truncate", OPTION_CHOICE,
	.choices = {"delete", "refuse", "ignore"}},
	[CQRS_OPTION_REPLICATION] = {"replication", OPTION_CHOICE,
	.choices = {"origin", "replica", "always"}}
};

#define SECONDS_EXPECTED \
	"a whole number of seconds up to 2147483647, 0 for none, or null"

static CqrsOption find_option(const char *name);
static NullableDatum from_json(const OptionInfo *info, JsonbValue *value);
static List *json_names(const OptionInfo *info, JsonbValue *value);
static Datum json_seconds(const OptionInfo *info, Numeric number);
static void type_error(const OptionInfo *info, const char *expected);
static void check_names(const OptionInfo *info, Datum names);
static void check_route(const OptionInfo *info, char *value);
static Datum check_choice(const OptionInfo *info, const char *value);

void
cqrs_option_set(CqrsMasterRow *row, CqrsOption option, NullableDatum argument)
{
	const OptionInfo *info = &infos[option];
	NullableDatum *value = &row->options[option];

	*value = argument;
	switch (info->kind)
	{
		case OPTION_NAMES:
			if (!argument.isnull)
				check_names(info, argument.value);
			break;

		case OPTION_OBJECT:
		case OPTION_EXPRESSION:
			break;

		case OPTION_FUNCTION:
			if (!argument.isnull)
				value->value =
					CStringGetTextDatum(cqrs_function_qualified_name(option,
																	 DatumGetObjectId(argument.value)));
			break;

		case OPTION_EXCHANGE:
		case OPTION_ROUTING_KEY:
			if (!argument.isnull)
				check_route(info, TextDatumGetCString(argument.value));
			break;

		case OPTION_CHOICE:
			value->value = check_choice(info, argument.isnull ? NULL :
										TextDatumGetCString(argument.value));
			value->isnull = false;
			break;

		case OPTION_BOOL:
			if (argument.isnull)
				value->value = BoolGetDatum(info->default_bool);
			value->isnull = false;
			break;

		case OPTION_SECONDS:
			if (!argument.isnull && DatumGetInt32(argument.value) < 0)
				type_error(info, SECONDS_EXPECTED);
			break;
	}
}

void
cqrs_options_set_json(CqrsMasterRow *row, Jsonb *options)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	CqrsOption	option = 0;

	if (!JB_ROOT_IS_OBJECT(options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object"),
				 errdetail("They are an array or a scalar."),
				 errhint("For example {\"tracked_fields\": [\"name\"], \"meta\": null}.")));

	it = JsonbIteratorInit(&options->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			option = find_option(pnstrdup(value.val.string.val,
										  value.val.string.len));
		else if (token == WJB_VALUE)
			cqrs_option_set(row, option, from_json(&infos[option], &value));
	}
}

static CqrsOption
find_option(const char *name)
{
	StringInfoData valid;

	for (int i = 0; i < CQRS_NOPTIONS; i++)
	{
		if (strcmp(infos[i].name, name) == 0)
			return (CqrsOption) i;
	}

	initStringInfo(&valid);
	for (int i = 0; i < CQRS_NOPTIONS; i++)
		appendStringInfo(&valid, "%s%s", i > 0 ? ", " : "", infos[i].name);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized option \"%s\"", name),
			 errdetail("Options are the arguments of cqrs_register() after the second."),
			 errhint("Valid options are: %s.", valid.data)));
}

/* The argument of cqrs_register() that a JSON value stands for. */
static NullableDatum
from_json(const OptionInfo *info, JsonbValue *value)
{
	NullableDatum result = {.isnull = value->type == jbvNull};
	char	   *string = NULL;

	if (result.isnull)
		return result;
	if (value->type == jbvString)
		string = pnstrdup(value->val.string.val, value->val.string.len);

	switch (info->kind)
	{
		case OPTION_NAMES:
			result.value = cqrs_master_text_array(json_names(info, value));
			break;

		case OPTION_OBJECT:
			result.value = JsonbPGetDatum(JsonbValueToJsonb(value));
			break;

		case OPTION_FUNCTION:
			if (string == NULL)
				type_error(info, "the name of a function, or null");
			result.value = DirectFunctionCall1(regprocin,
											   CStringGetDatum(string));
			break;

		case OPTION_EXPRESSION:
		case OPTION_EXCHANGE:
		case OPTION_ROUTING_KEY:
		case OPTION_CHOICE:
			if (string == NULL)
				type_error(info, "a string, or null");
			result.value = CStringGetTextDatum(string);
			break;

		case OPTION_BOOL:
			if (value->type != jbvBool)
				type_error(info, "true or false");
			result.value = BoolGetDatum(value->val.boolean);
			break;

		case OPTION_SECONDS:
			if (value->type != jbvNumeric)
				type_error(info, SECONDS_EXPECTED);
			result.value = json_seconds(info, value->val.numeric);
			break;
	}
	return result;
}

static List *
json_names(const OptionInfo *info, JsonbValue *value)
{
	List	   *names = NIL;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	elem;

	if (value->type != jbvBinary ||
		!JsonContainerIsArray(value->val.binary.data))
		type_error(info, "an array of column names, or null");

	it = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &elem, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (elem.type != jbvString)
			type_error(info, "an array of column names, or null");
		names = lappend(names, pnstrdup(elem.val.string.val,
										elem.val.string.len));
	}
	return names;
}

static Datum
json_seconds(const OptionInfo *info, Numeric number)
{
	char	   *digits = DatumGetCString(DirectFunctionCall1(numeric_out,
															 NumericGetDatum(number)));
	char	   *end;
	long		value;

	errno = 0;
	value = strtol(digits, &end, 10);
	if (errno != 0 || *end != '\0' || value < 0 || value > PG_INT32_MAX)
		type_error(info, SECONDS_EXPECTED);
	return Int32GetDatum((int32) value);
}

static void
type_error(const OptionInfo *info, const char *expected)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\"", info->name),
			 errdetail("It must be %s.", expected),
			 errhint("Null stands for the default.")));
}

/* The names themselves are checked against the table. */
static void
check_names(const OptionInfo *info, Datum names)
{
	if (cqrs_master_text_list(names) == NIL &&
		info == &infos[CQRS_OPTION_FIELDS])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"fields\" must not be empty"),
				 errdetail("A message needs the primary key, at least."),
				 errhint("Use NULL for all columns.")));
}

/* What becomes a part of the protocol, in UTF-8. */
static void
check_route(const OptionInfo *info, char *value)
{
	char	   *utf8 = pg_server_to_any(value, strlen(value), PG_UTF8);
	const char *problem = NULL;

	if (info->kind == OPTION_EXCHANGE)
		problem = cqrs_exchange_problem(utf8);
	else if (utf8[0] == '\0' || strlen(utf8) > CQRS_SHORTSTR_BYTES)
		problem = psprintf("It must have 1 to %d bytes in UTF-8.",
						   CQRS_SHORTSTR_BYTES);
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\"", info->name),
				 errdetail("%s", problem),
				 errhint("Null stands for the default.")));
}

static Datum
check_choice(const OptionInfo *info, const char *value)
{
	StringInfoData valid;

	if (value == NULL)
		return CStringGetTextDatum(info->choices[0]);

	initStringInfo(&valid);
	for (int i = 0; i < lengthof(info->choices) && info->choices[i] != NULL; i++)
	{
		if (strcmp(info->choices[i], value) == 0)
			return CStringGetTextDatum(value);
		appendStringInfo(&valid, "%s\"%s\"", i > 0 ? ", " : "",
						 info->choices[i]);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", info->name, value),
			 errdetail("It is none of the values that the option can have."),
			 errhint("Valid values are: %s.", valid.data)));
}
