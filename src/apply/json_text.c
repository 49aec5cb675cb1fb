/*-------------------------------------------------------------------------
 *
 * json_text.c
 *	  JSON values of messages as the texts that input functions read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/fmgrprotos.h"

#include "apply/json_text.h"

/* A member of an object that becomes an hstore. */
typedef struct HstorePair
{
	char	   *key;			/* without escapes */
	const CqrsJsonValue *value;
} HstorePair;

static int	compare_pairs(const void *a, const void *b);
static void append_quoted(StringInfo buf, const char *text);

char *
cqrs_json_text_verbatim(const CqrsJsonValue *json)
{
	return pnstrdup(json->start, json->length);
}

char *
cqrs_json_text_characters(const CqrsJsonValue *json)
{
	const char *problem;
	char	   *characters;

	if (json->kind != CQRS_JSON_STRING)
		return cqrs_json_text_verbatim(json);
	characters = cqrs_json_scan_string(json, &problem);
	if (characters == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNTRANSLATABLE_CHARACTER),
				 errmsg("unsupported character in a message"),
				 errdetail_internal("%s", problem)));
	return characters;
}

bool
cqrs_json_text_digits(const CqrsJsonValue *json, int64 *number)
{
	const char *pos = json->start;
	const char *end = json->start + json->length;
	bool		negative = *pos == '-';

	if (json->kind != CQRS_JSON_NUMBER || json->length > 18)
		return false;
	*number = 0;
	for (pos += negative; pos < end; pos++)
	{
		if (*pos < '0' || *pos > '9')
			return false;
		*number = *number * 10 + *pos - '0';
	}
	if (negative)
		*number = -*number;
	return true;
}

char *
cqrs_json_text_whole(char *text)
{
	Datum		number;
	Datum		whole;

	if (strpbrk(text, ".eE") == NULL ||
		strspn(text, "+-.eE0123456789") != strlen(text))
		return text;
	number = DirectFunctionCall3(numeric_in, CStringGetDatum(text),
								 ObjectIdGetDatum(InvalidOid),
								 Int32GetDatum(-1));
	whole = DirectFunctionCall2(numeric_trunc, number, Int32GetDatum(0));
	if (!DatumGetBool(DirectFunctionCall2(numeric_eq, number, whole)))
		return text;
	return DatumGetCString(DirectFunctionCall1(numeric_out, whole));
}

char *
cqrs_json_text_hstore(const CqrsJsonValue *json)
{
	CqrsJsonMembers object = {0};
	StringInfoData buf;
	HstorePair *pairs;
	bool		bare;

	if (cqrs_json_scan_object(json->start, json->length, &object, NULL, NULL,
							  &bare) != NULL)
		elog(ERROR, "invalid JSON object");
	pairs = palloc(sizeof(HstorePair) * object.nmembers);
	for (int i = 0; i < object.nmembers; i++)
	{
		pairs[i].key = cqrs_json_text_characters(&object.members[i].key);
		pairs[i].value = &object.members[i].value;
	}
	qsort(pairs, object.nmembers, sizeof(HstorePair), compare_pairs);
	initStringInfo(&buf);
	for (int i = 0; i < object.nmembers; i++)
	{
		/* Of equal keys JSON keeps the last one, hstore any. */
		if (i + 1 < object.nmembers &&
			strcmp(pairs[i].key, pairs[i + 1].key) == 0)
			continue;
		if (buf.len > 0)
			appendStringInfoChar(&buf, ',');
		append_quoted(&buf, pairs[i].key);
		appendStringInfoString(&buf, "=>");
		if (pairs[i].value->kind == CQRS_JSON_NULL)
			appendStringInfoString(&buf, "NULL");
		else
			append_quoted(&buf, cqrs_json_text_characters(pairs[i].value));
	}
	return buf.data;
}

/* For qsort(): by the key, and equal keys in their order in the object. */
static int
compare_pairs(const void *a, const void *b)
{
	const HstorePair *left = a;
	const HstorePair *right = b;
	int			order = strcmp(left->key, right->key);

	if (order != 0)
		return order;
	return left->value < right->value ? -1 : left->value > right->value;
}

/* Append a text as hstore's input reads it. */
static void
append_quoted(StringInfo buf, const char *text)
{
	appendStringInfoChar(buf, '"');
	for (; *text != '\0'; text++)
	{
		if (*text == '"' || *text == '\\')
			appendStringInfoChar(buf, '\\');
		appendStringInfoChar(buf, *text);
	}
	appendStringInfoChar(buf, '"');
}
