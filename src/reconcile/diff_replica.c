/*-------------------------------------------------------------------------
 *
 * diff_replica.c
 *	  The replica's side of comparing rows with a master.
 *
 * The lines are those of django-cqrs's commands (docs/wire-format.md):
 *
 *	  cqrs_diff_replica			[key, revision] of each row of the master: the
 *								keys that differ here, for its cqrs_diff_sync
 *	  cqrs_deleted_diff_replica all keys, for its cqrs_deleted_diff_master
 *
 * Everything runs with the caller's rights.  Rows are read under pinned
 * settings; only the caller's filter has his own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "apply/envelope.h"
#include "apply/finder.h"
#include "apply/settings.h"
#include "compose/value.h"
#include "consume/seat.h"
#include "master/condition.h"
#include "reconcile/lines.h"
#include "resend/query.h"

PG_FUNCTION_INFO_V1(cqrs_diff_replica);
PG_FUNCTION_INFO_V1(cqrs_deleted_diff_replica);

/* Rows that are fetched at once. */
#define FETCH_ROWS	1000

/* What a replica without a queue answers, as django-cqrs does. */
#define NO_QUEUE	"None"

/* A line of keys that is being made. */
typedef struct KeyLine
{
	StringInfoData text;
	int			nkeys;
} KeyLine;

static void compare_line(CqrsFinder *finder, char *text, int number,
						 KeyLine *line);
static bool differs(CqrsFinder *finder, const CqrsJsonValue *pair, int number,
					const CqrsJsonValue *key);
static bool is_integer(const CqrsJsonValue *json);
static void pair_of(const CqrsJsonValue *json, int number,
					CqrsJsonMembers *pair);
static void append_key(KeyLine *line, const char *key);
static void end_line(FunctionCallInfo fcinfo, KeyLine *line);
static CqrsQuery *query_keys(const CqrsFinder *finder, const char *filter);
static void append_row(KeyLine *line, CqrsValueFormat *formats, int nkeys,
					   HeapTuple row, TupleDesc desc);

/* cqrs_diff_replica(lines text[]) RETURNS SETOF text */
Datum
cqrs_diff_replica(PG_FUNCTION_ARGS)
{
	CqrsLines	lines = cqrs_lines_read(PG_GETARG_ARRAYTYPE_P(0),
										"cqrs_diff_master");
	int			level;
	MemoryContext context;
	MemoryContext caller;
	CqrsFinder *finder;
	KeyLine		line = {0};
	CqrsSeat   *seat;

	cqrs_lines_begin_result(fcinfo);
	if (lines.first == NULL)
		PG_RETURN_NULL();
	seat = cqrs_seat_read();
	SPI_connect();
	level = NewGUCNestLevel();
	cqrs_settings_pin(GUC_ACTION_SAVE);
	/* Rows that have been applied meanwhile are seen whatever the isolation. */
	PushActiveSnapshot(GetLatestSnapshot());
	finder = cqrs_finder_begin(lines.cqrs_id);
	cqrs_lines_add(fcinfo, psprintf("%s,%s", lines.first,
									seat != NULL ? seat->queue : NO_QUEUE));
	initStringInfo(&line.text);
	context = AllocSetContextCreate(CurrentMemoryContext, "cqrs diff line",
									ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	for (int i = 0; i < list_length(lines.lines); i++)
	{
		compare_line(finder, list_nth(lines.lines, i), i + 1, &line);
		end_line(fcinfo, &line);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(caller);
	cqrs_finder_end(finder);
	PopActiveSnapshot();
	AtEOXact_GUC(false, level);
	SPI_finish();
	PG_RETURN_NULL();
}

/* Append the keys of a line whose rows differ. */
static void
compare_line(CqrsFinder *finder, char *text, int number, KeyLine *line)
{
	CqrsJsonMembers elements = {0};

	cqrs_lines_elements(text, number, &elements);
	for (int i = 0; i < elements.nmembers; i++)
	{
		CqrsJsonMembers pair = {0};

		pair_of(&elements.members[i].value, number, &pair);
		if (differs(finder, &pair.members[1].value, number,
					&pair.members[0].value))
			append_key(line, cqrs_lines_key(&pair.members[0].value));
	}
}

/* Whether a value is a number without fraction and exponent, of 64 bits. */
static bool
is_integer(const CqrsJsonValue *json)
{
	char	   *end;

	if (json->kind != CQRS_JSON_NUMBER)
		return false;
	errno = 0;
	(void) strtoll(json->start, &end, 10);
	return errno == 0 && end == json->start + json->length;
}

/* Take a key and a revision apart. */
static void
pair_of(const CqrsJsonValue *json, int number, CqrsJsonMembers *pair)
{
	if (json->kind == CQRS_JSON_ARRAY)
		cqrs_json_scan_array(json, pair);
	if (pair->nmembers != 2 ||
		!is_integer(&pair->members[1].value))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("line %d of a diff is not an array of keys and revisions",
						number + 1),
				 errhint("Write a line as in [[1,0],[2,5]].")));
}

/* Whether the row of a key is missing or has another revision. */
static bool
differs(CqrsFinder *finder, const CqrsJsonValue *revision, int number,
		const CqrsJsonValue *key)
{
	Datum		values[INDEX_MAX_KEYS];
	CqrsFoundRow row;

	cqrs_finder_read_key(finder, key, values);
	row = cqrs_finder_find(finder, values);
	return !row.alive || row.revision != strtoll(revision->start, NULL, 10);
}

/* Append a key, which is JSON, to the array of the line. */
static void
append_key(KeyLine *line, const char *key)
{
	appendStringInfo(&line->text, "%c%s", line->nkeys++ == 0 ? '[' : ',', key);
}

/* Return the line, unless it is empty. */
static void
end_line(FunctionCallInfo fcinfo, KeyLine *line)
{
	if (line->nkeys > 0)
	{
		appendStringInfoChar(&line->text, ']');
		cqrs_lines_add(fcinfo, line->text.data);
	}
	resetStringInfo(&line->text);
	line->nkeys = 0;
}

/*
 * cqrs_deleted_diff_replica(cqrs_id text, filter text, batch integer)
 * RETURNS SETOF text
 */
Datum
cqrs_deleted_diff_replica(PG_FUNCTION_ARGS)
{
	CqrsValueFormat formats[INDEX_MAX_KEYS];
	StringInfoData first;
	KeyLine		line = {0};
	CqrsFinder *finder;
	CqrsMapping *mapping;
	CqrsQuery  *query;
	char	   *cqrs_id;
	bool		any = false;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"cqrs_id\" must not be null")));
	if (PG_ARGISNULL(2) || PG_GETARG_INT32(2) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"batch\" must be at least 1"),
				 errdetail("The batch is the number of keys in a line."),
				 errhint("Leave out the argument for the default.")));
	cqrs_id = text_to_cstring(PG_GETARG_TEXT_PP(0));
	cqrs_lines_begin_result(fcinfo);
	SPI_connect();
	finder = cqrs_finder_begin(cqrs_id);
	mapping = &finder->mapping;
	for (int i = 0; i < mapping->nkeys; i++)
		cqrs_value_init(&formats[i], mapping->columns[mapping->keys[i]].type);
	query = query_keys(finder, PG_ARGISNULL(1) ? NULL :
					   text_to_cstring(PG_GETARG_TEXT_PP(1)));
	initStringInfo(&first);
	appendStringInfo(&first, "%s,", cqrs_id);
	cqrs_value_append_timestamptz(&first, GetCurrentTimestamp());
	initStringInfo(&line.text);
	while (cqrs_query_fetch(query, FETCH_ROWS) > 0)
	{
		int			level = NewGUCNestLevel();

		if (!any)
			cqrs_lines_add(fcinfo, first.data);
		any = true;
		cqrs_settings_pin(GUC_ACTION_SAVE);
		for (uint64 i = 0; i < query->nrows; i++)
		{
			append_row(&line, formats, mapping->nkeys, query->rows[i],
					   query->desc);
			if (line.nkeys == PG_GETARG_INT32(2))
				end_line(fcinfo, &line);
		}
		AtEOXact_GUC(false, level);
	}
	end_line(fcinfo, &line);
	cqrs_query_end(query);
	cqrs_finder_end(finder);
	SPI_finish();
	PG_RETURN_NULL();
}

/* The keys of rows that match a filter, or of all. */
static CqrsQuery *
query_keys(const CqrsFinder *finder, const char *filter)
{
	StringInfoData text;

	if (filter != NULL)
		(void) cqrs_condition_parse(filter, "filter");
	initStringInfo(&text);
	for (int i = 0; i < finder->mapping.nkeys; i++)
		appendStringInfo(&text, "%s %s", i == 0 ? "SELECT" : ",",
						 quote_identifier(finder->mapping.columns[finder->mapping.keys[i]].column));
	appendStringInfo(&text, " FROM %s WHERE %s",
					 cqrs_finder_table(finder), cqrs_finder_alive(finder));
	/* The line break ends a comment in the filter. */
	if (filter != NULL)
		appendStringInfo(&text, " AND (%s\n)", filter);
	return cqrs_query_begin(text.data, 0, NULL, NULL);
}

/*
 * The same for a row, which begins with the values of the key; several of them
 * make an array.
 */
static void
append_row(KeyLine *line, CqrsValueFormat *formats, int nkeys, HeapTuple row,
		   TupleDesc desc)
{
	appendStringInfoChar(&line->text, line->nkeys++ == 0 ? '[' : ',');
	for (int i = 0; i < nkeys; i++)
	{
		bool		isnull;
		Datum		value = heap_getattr(row, i + 1, desc, &isnull);

		if (nkeys > 1)
			appendStringInfoChar(&line->text, i == 0 ? '[' : ',');
		cqrs_value_append(&line->text, &formats[i], value);
	}
	if (nkeys > 1)
		appendStringInfoChar(&line->text, ']');
}
