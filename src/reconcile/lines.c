/*-------------------------------------------------------------------------
 *
 * lines.c
 *	  Lines of text that masters and replicas exchange to compare their rows.
 *
 * The result of a function is in a tuplestore, which goes to disk when it is
 * large.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/tuplestore.h"

#include "apply/envelope.h"
#include "apply/iso_time.h"
#include "reconcile/lines.h"
#include "resend/diff_lines.h"

static void read_first(CqrsLines *lines, const char *command);

CqrsLines
cqrs_lines_read(ArrayType *array, const char *command)
{
	CqrsLines	result = {.lines = cqrs_diff_lines_read(array)};

	if (result.lines != NIL)
	{
		result.first = linitial(result.lines);
		result.lines = list_delete_first(result.lines);
		read_first(&result, command);
	}
	return result;
}

/*
 * Take cqrs_id and time from the first line.  The error, if it has none, names
 * the command that writes it.
 */
static void
read_first(CqrsLines *lines, const char *command)
{
	char	   *comma = strrchr(lines->first, ',');

	if (comma == NULL ||
		!cqrs_iso_time_read(comma + 1, strlen(comma + 1), &lines->time))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("input does not begin with the first line of a diff"),
				 errdetail("The first line is \"%s\".", lines->first),
				 errhint("Pass the output of %s of the master, which begins with \"cqrs_id,time\".",
						 command)));
	lines->cqrs_id = pnstrdup(lines->first, comma - lines->first);
}

void
cqrs_lines_elements(char *line, int number, CqrsJsonMembers *elements)
{
	CqrsJsonValue array = {.kind = CQRS_JSON_ARRAY};

	if (*line == '\0')
		return;
	/* Raises an error for anything but JSON. */
	(void) DirectFunctionCall1(json_in, CStringGetDatum(line));
	array.start = line + strspn(line, " \t");
	array.length = strlen(array.start);
	if (*array.start != '[')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("line %d of a diff is not an array", number + 1)));
	cqrs_json_scan_array(&array, elements);
}

char *
cqrs_lines_key(const CqrsJsonValue *key)
{
	char	   *text = cqrs_envelope_compact_key(key);

	if (text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNTRANSLATABLE_CHARACTER),
				 errmsg("a key of a diff has characters that the database cannot store"),
				 errdetail("The key is %s.",
						   pnstrdup(key->start, key->length))));
	return text;
}

void
cqrs_lines_begin_result(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext caller;

	if (result == NULL || !IsA(result, ReturnSetInfo) ||
		(result->allowedModes & SFRM_Materialize) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));
	caller = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
	result->returnMode = SFRM_Materialize;
	result->setDesc = CreateTemplateTupleDesc(1);
	TupleDescInitEntry(result->setDesc, 1, "line", TEXTOID, -1, 0);
	result->setResult = tuplestore_begin_heap((result->allowedModes & SFRM_Materialize_Random) != 0,
											  false, work_mem);
	MemoryContextSwitchTo(caller);
}

void
cqrs_lines_add(FunctionCallInfo fcinfo, const char *line)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		value = CStringGetTextDatum(line);
	bool		isnull = false;

	tuplestore_putvalues(result->setResult, result->setDesc, &value, &isnull);
	pfree(DatumGetPointer(value));
}
