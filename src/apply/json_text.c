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
	bool		bare;

	if (cqrs_json_scan_object(json->start, json->length, &object, NULL, NULL,
							  &bare) != NULL)
		elog(ERROR, "invalid JSON object");
	initStringInfo(&buf);
	/* Of equal keys hstore keeps the first, JSON the last. */
	for (int i = object.nmembers - 1; i >= 0; i--)
	{
		CqrsJsonMember *member = &object.members[i];

		append_quoted(&buf, cqrs_json_text_characters(&member->key));
		appendStringInfoString(&buf, "=>");
		if (member->value.kind == CQRS_JSON_NULL)
			appendStringInfoString(&buf, "NULL");
		else
			append_quoted(&buf, cqrs_json_text_characters(&member->value));
		if (i > 0)
			appendStringInfoChar(&buf, ',');
	}
	return buf.data;
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
