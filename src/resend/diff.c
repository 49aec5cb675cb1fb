/*-------------------------------------------------------------------------
 *
 * diff.c
 *	  The cursors by which master and replica compare their rows.
 *
 * The cursors are those of django-cqrs's commands (docs/wire-format.md): lines
 * of text that are piped from one side to the other and back:
 *
 *	  cqrs_diff_master			[key, revision] of each row, for the replica's
 *								cqrs_diff_replica
 *	  cqrs_diff_sync			its answer, the keys that differ: SYNCs to it
 *	  cqrs_deleted_diff_master	all keys of the replica: those that are gone
 *
 * Everything runs with the caller's rights.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/error_context.h"
#include "compose/value.h"
#include "resend/cursor.h"
#include "resend/diff_lines.h"
#include "resend/keys.h"
#include "resend/sync.h"

PG_FUNCTION_INFO_V1(cqrs_diff_master);
PG_FUNCTION_INFO_V1(cqrs_diff_sync);
PG_FUNCTION_INFO_V1(cqrs_deleted_diff_master);

/* Rows that are fetched at once. */
#define FETCH_ROWS	1000

/* The queue in the answer of a replica that has no queue of its own. */
#define NO_QUEUE	"None"

/* cqrs_diff_master() in progress */
typedef struct DiffMaster
{
	CqrsCursor *cursor;
	int64		batch;			/* pairs on a line */
	StringInfoData line;
	int64		npairs;			/* on the line so far */
	bool		begun;			/* the first line has been returned */
} DiffMaster;

/* The lines of a diff that have been read. */
typedef struct DiffLines
{
	List	   *lines;			/* of char *, unchanged */
	char	   *cqrs_id;
	char	   *queue;			/* or NULL */
} DiffLines;

static void fill_line(DiffMaster *diff);
static void append_pair(CqrsCursor *cursor, HeapTuple row, TupleDesc desc,
						void *arg);
static char *header_line(const char *cqrs_id);
static DiffLines read_lines(ArrayType *array, bool with_queue);
static char *cut_last(char *line);
static Jsonb *keys_of_line(const char *line, int number, Relation rel,
						   const CqrsRelation *relation);
static void line_error(void *arg);
static void check_no_row_security(Relation rel);
static List *missing_keys(const DiffLines *lines);

/*
 * cqrs_diff_master(cqrs_id text, filter text, batch integer)
 * RETURNS SETOF text
 */
Datum
cqrs_diff_master(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	DiffMaster *diff;
	text	   *line;

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext caller;
		char	   *cqrs_id;
		char	   *filter = PG_ARGISNULL(1) ? NULL :
		text_to_cstring(PG_GETARG_TEXT_PP(1));

		context = SRF_FIRSTCALL_INIT();
		caller = MemoryContextSwitchTo(context->multi_call_memory_ctx);
		cqrs_id = cqrs_master_id_arg(fcinfo, 0);
		if (PG_ARGISNULL(2) || PG_GETARG_INT32(2) < 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"batch\" must be at least 1"),
					 errdetail("The batch is the number of rows in a line."),
					 errhint("Leave out the argument for the default.")));
		cqrs_sync_check_filter(filter);

		diff = palloc0(sizeof(DiffMaster));
		diff->batch = PG_GETARG_INT32(2);
		diff->cursor = cqrs_cursor_begin(cqrs_id);
		initStringInfo(&diff->line);
		cqrs_cursor_query(diff->cursor,
						  diff->cursor->master->sync_when == NULL ?
						  cqrs_cursor_key_query(diff->cursor, filter) :
						  cqrs_cursor_row_query(diff->cursor, filter));
		cqrs_cursor_attach(diff->cursor, fcinfo);
		context->user_fctx = diff;
		MemoryContextSwitchTo(caller);
	}

	context = SRF_PERCALL_SETUP();
	diff = context->user_fctx;
	if (diff->line.len == 0)
		fill_line(diff);
	if (diff->line.len == 0)
	{
		cqrs_cursor_detach(diff->cursor, fcinfo);
		SRF_RETURN_DONE(context);
	}
	if (!diff->begun)
	{
		/* The first line comes only if there are rows; the rows follow. */
		diff->begun = true;
		SRF_RETURN_NEXT(context,
						CStringGetTextDatum(header_line(diff->cursor->master->cqrs_id)));
	}
	line = cstring_to_text_with_len(diff->line.data, diff->line.len);
	resetStringInfo(&diff->line);
	SRF_RETURN_NEXT(context, PointerGetDatum(line));
}

/* Fill the line, which is empty; at the end it stays empty. */
static void
fill_line(DiffMaster *diff)
{
	diff->npairs = 0;
	while (diff->npairs < diff->batch)
	{
		if (cqrs_cursor_fetch(diff->cursor,
							  Min(diff->batch - diff->npairs, FETCH_ROWS),
							  append_pair, diff) == 0)
			break;
	}
	if (diff->line.len > 0)
		appendStringInfoChar(&diff->line, ']');
}

/*
 * Append a row's key and revision to the line, if the row matches sync_when.
 */
static void
append_pair(CqrsCursor *cursor, HeapTuple row, TupleDesc desc, void *arg)
{
	DiffMaster *diff = arg;
	StringInfo	line = &diff->line;

	if (cursor->master->sync_when == NULL)
		cqrs_cursor_set_key(cursor, row, desc);
	else
	{
		cqrs_cursor_set_row(cursor, row, desc);
		if (!cqrs_cursor_matches(cursor))
			return;
	}
	diff->npairs++;
	appendStringInfoString(line, line->len == 0 ? "[[" : ",[");
	cqrs_serialize_key(line, cursor->rel, cursor->relation, &cursor->row);
	appendStringInfo(line, ",%d]",
					 DatumGetInt32(cursor->row.values[cursor->relation->revision - 1]));
}

/* The first line of a diff. */
static char *
header_line(const char *cqrs_id)
{
	StringInfoData line;

	initStringInfo(&line);
	appendStringInfo(&line, "%s,", cqrs_id);
	cqrs_value_append_timestamptz(&line, GetCurrentTimestamp());
	return line.data;
}

/* cqrs_diff_sync(lines text[]) RETURNS bigint */
Datum
cqrs_diff_sync(PG_FUNCTION_ARGS)
{
	DiffLines	lines;
	CqrsRelation *relation;
	CqrsMaster *master;
	Relation	rel;
	char	   *query;
	int64		count = 0;

	PreventCommandIfReadOnly("cqrs_diff_sync()");
	lines = read_lines(PG_GETARG_ARRAYTYPE_P(0), true);
	if (lines.lines == NIL)
		PG_RETURN_INT64(0);
	cqrs_sync_check_queue(lines.queue);
	rel = cqrs_sync_open(lines.cqrs_id, &relation, &master);
	query = psprintf("SELECT r.tableoid, r.ctid FROM " CQRS_KEYS_SOURCE ", %s AS r WHERE %s "
					 "GROUP BY r.tableoid, r.ctid ORDER BY pg_catalog.min(k.n)",
					 cqrs_sync_table(rel),
					 cqrs_keys_condition(rel, relation));
	for (int i = 1; i < list_length(lines.lines) && master->produce; i++)
	{
		ErrorContextCallback callback;
		Jsonb	   *keys;
		QueryEnvironment *env;
		CqrsQuery  *rows;

		cqrs_error_context_push(&callback, line_error, &i);
		keys = keys_of_line(list_nth(lines.lines, i), i + 1, rel, relation);
		if (keys != NULL)
		{
			env = cqrs_keys_offer(keys, rel, relation);
			rows = cqrs_query_begin_env(query, 0, NULL, NULL, env);
			count += cqrs_sync_note_rows(lines.cqrs_id, lines.queue, rows,
										 NULL, NULL);
			cqrs_query_end(rows);
			cqrs_keys_withdraw(env);
		}
		cqrs_error_context_pop(&callback);
	}
	table_close(rel, NoLock);
	PG_RETURN_INT64(count);
}

/* cqrs_deleted_diff_master(lines text[]) RETURNS SETOF text */
Datum
cqrs_deleted_diff_master(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	List	   *answer;
	text	   *line;

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext caller;
		DiffLines	lines;

		context = SRF_FIRSTCALL_INIT();
		caller = MemoryContextSwitchTo(context->multi_call_memory_ctx);
		lines = read_lines(PG_GETARG_ARRAYTYPE_P(0), false);
		context->user_fctx = missing_keys(&lines);
		MemoryContextSwitchTo(caller);
	}

	context = SRF_PERCALL_SETUP();
	answer = context->user_fctx;
	if (context->call_cntr == list_length(answer))
		SRF_RETURN_DONE(context);
	line = cstring_to_text(list_nth(answer, context->call_cntr));
	SRF_RETURN_NEXT(context, PointerGetDatum(line));
}

/*
 * The first line unchanged, and for each other line the keys that the table
 * does not have, unless it has all.
 */
static List *
missing_keys(const DiffLines *lines)
{
	CqrsRelation *relation;
	CqrsMaster *master;
	Relation	rel;
	List	   *answer = NIL;
	char	   *query;

	if (lines->lines == NIL)
		return NIL;
	rel = cqrs_relation_open(lines->cqrs_id, AccessShareLock, &relation,
							 &master);
	check_no_row_security(rel);
	query = psprintf("SELECT pg_catalog.string_agg(k.key::pg_catalog.text, ',' ORDER BY k.n) "
					 "FROM " CQRS_KEYS_SOURCE " WHERE NOT EXISTS (SELECT FROM %s AS r WHERE %s)",
					 cqrs_sync_table(rel),
					 cqrs_keys_condition(rel, relation));
	answer = lappend(answer, pstrdup(linitial(lines->lines)));

	/*
	 * A replica may have received a row that an older snapshot of this
	 * transaction does not see: such a row is not gone.
	 */
	PushActiveSnapshot(GetLatestSnapshot());
	for (int i = 1; i < list_length(lines->lines); i++)
	{
		ErrorContextCallback callback;
		Jsonb	   *keys;
		QueryEnvironment *env;
		CqrsQuery  *row;
		Datum		missing;
		bool		isnull;

		cqrs_error_context_push(&callback, line_error, &i);
		keys = keys_of_line(list_nth(lines->lines, i), i + 1, rel, relation);
		if (keys != NULL)
		{
			env = cqrs_keys_offer(keys, rel, relation);
			row = cqrs_query_begin_env(query, 0, NULL, NULL, env);
			(void) cqrs_query_fetch(row, 1);
			missing = heap_getattr(row->rows[0], 1, row->desc, &isnull);
			if (!isnull)
				answer = lappend(answer,
								 psprintf("[%s]", TextDatumGetCString(missing)));
			cqrs_query_end(row);
			cqrs_keys_withdraw(env);
		}
		cqrs_error_context_pop(&callback);
	}
	PopActiveSnapshot();
	table_close(rel, AccessShareLock);
	return answer;
}

/* Refuse row security: a hidden row would be taken for deleted. */
static void
check_no_row_security(Relation rel)
{
	if (check_enable_rls(RelationGetRelid(rel), InvalidOid, false) != RLS_ENABLED)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot look for deleted rows of table \"%s\", which has row security for role \"%s\"",
					RelationGetRelationName(rel),
					GetUserNameFromId(GetUserId(), false)),
			 errdetail("Rows that the policies of the table hide would be taken for deleted."),
			 errhint("Call cqrs_deleted_diff_master() as a role that sees all rows.")));
}

/*
 * Take the lines of a diff apart: the first one is "cqrs_id,time", or
 * "cqrs_id,time,queue".  White space at the end of a line and empty lines at
 * the end are ignored.
 */
static DiffLines
read_lines(ArrayType *array, bool with_queue)
{
	DiffLines	result = {0};
	char	   *last;
	char	   *time;

	result.lines = cqrs_diff_lines_read(array);
	if (result.lines == NIL)
		return result;

	result.cqrs_id = pstrdup(linitial(result.lines));
	last = cut_last(result.cqrs_id);
	time = with_queue && last != NULL ? cut_last(result.cqrs_id) : last;
	if (time == NULL || *time < '0' || *time > '9')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("input does not begin with the first line of a diff"),
				 errdetail("The first line is \"%s\".", (char *) linitial(result.lines)),
				 with_queue ?
				 errhint("Pass the output of the replica's command cqrs_diff_replica, which begins with \"cqrs_id,time,queue\".") :
				 errhint("Pass the output of the replica's command cqrs_deleted_diff_replica, which begins with \"cqrs_id,time\".")));
	if (with_queue && strcmp(last, NO_QUEUE) != 0)
		result.queue = last;
	return result;
}

/* Cut a line at its last comma, and return the part after the comma. */
static char *
cut_last(char *line)
{
	char	   *comma = strrchr(line, ',');

	if (comma == NULL)
		return NULL;
	*comma = '\0';
	return comma + 1;
}

/* The keys of a line, or NULL if it is empty. */
static Jsonb *
keys_of_line(const char *line, int number, Relation rel,
			 const CqrsRelation *relation)
{
	Jsonb	   *keys;

	if (line[0] == '\0')
		return NULL;
	keys = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(line)));
	if (!cqrs_keys_are_valid(keys, rel, relation))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("line %d is not an array of keys", number),
				 errdetail_plural("The primary key has %d column.",
								  "The primary key has %d columns.",
								  relation->nkeys, relation->nkeys),
				 relation->nkeys == 1 ?
				 errhint("Write a line as in [1,2].") :
				 errhint("Write a line as in [[1,\"a\"],[2,\"b\"]].")));
	return keys;
}

/* Error context: the number of the line that is read. */
static void
line_error(void *arg)
{
	errcontext("line %d of a diff", *(int *) arg + 1);
}
