/*-------------------------------------------------------------------------
 *
 * bulk_load.c
 *	  cqrs_bulk_load: the lines of a dump become rows of a replica.
 *
 * A line is what instance_data of a SAVE is, and is applied as one: with the
 * rights of the owner, by the handler if there is one, and only if the row has
 * no later revision.  So a dump sets no row back that the consumer has written
 * meanwhile.
 *
 * Each batch is a transaction of its own, unless the procedure is called in a
 * transaction block.  Its lines are applied in subtransactions of GROUP lines,
 * more in large batches, which PostgreSQL's snapshots can hold.  A group that
 * fails is divided where it has failed, down to the bad line, which is
 * reported; the others stay.  Errors that are no line's fault (a cancellation,
 * lack of resources, a deadlock) end the procedure.
 *
 * Deferred constraints are checked with each group, as long as the owner's
 * rights hold.
 *
 * "cqrs load batch" has the lines of a batch, "cqrs load lines" what applying
 * a group takes.  Both are below SPI's context, which outlives a commit here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/parsenodes.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "apply/apply.h"
#include "apply/on_behalf.h"
#include "base/caught.h"
#include "consume/seat.h"
#include "consume/verdict.h"
#include "reconcile/load_source.h"
#include "replica/mapping.h"
#include "resend/progress.h"

PG_FUNCTION_INFO_V1(cqrs_bulk_load);
PG_FUNCTION_INFO_V1(cqrs_bulk_load_file);

#define GROUP		100
/* Subtransactions of a transaction, unless lines are bad. */
#define GROUPS		50
/* Errors that are returned; more are counted. */
#define MAX_ERRORS	1000

typedef struct Counts
{
	int64		loaded;
	int64		skipped;		/* the row has this revision or a later one */
	int64		failed;
} Counts;

typedef struct Load
{
	char	   *cqrs_id;
	Oid			relid;			/* InvalidOid: none */
	Oid			owner;
	int			nkeys;
	char	   *keys[INDEX_MAX_KEYS];	/* members that are the key */
	CqrsLoadSource source;
	bool		commits;		/* after each batch */
	int			batch;
	int			group;
	CqrsLoadLine *lines;		/* of the batch */
	int			nlines;
	Counts		counts;
	StringInfoData errors;		/* JSON */
	CqrsProgress progress;
	MemoryContext batch_context;
	MemoryContext lines_context;
} Load;

/* Lines that are loaded together. */
typedef struct LineGroup
{
	Load	   *load;
	int			from;
	int			to;
	int			at;				/* the line at hand; "to" at the end of all */
	Counts		counts;			/* of all groups, with this one */
} LineGroup;

static Datum load_all(FunctionCallInfo fcinfo, bool from_file);
static Load *read_arguments(FunctionCallInfo fcinfo, bool from_file);
static void read_replica(Load *load);
static void check_paused(void);
static void clear_table(const Load *load);
static void load_batch(Load *load);
static void load_lines(Load *load, int from, int to);
static int	try_lines(Load *load, int from, int to);
static void apply_lines(void *arg);
static void apply_line(Load *load, CqrsApplier *applier,
					   const CqrsLoadLine *line, Counts *counts);
static char *read_line(const char *line, CqrsIncoming *message);
static char *key_of(const Load *load, const CqrsJsonMembers *data);
static void report_line(Load *load, const CqrsLoadLine *line,
						const char *error);
static Datum result(FunctionCallInfo fcinfo, const Load *load);

/*
 * cqrs_bulk_load(lines text[], clear boolean, batch integer,
 * INOUT loaded bigint, INOUT skipped bigint, INOUT failed bigint,
 * INOUT errors jsonb)
 */
Datum
cqrs_bulk_load(PG_FUNCTION_ARGS)
{
	return load_all(fcinfo, false);
}

/* The same with filename text for lines. */
Datum
cqrs_bulk_load_file(PG_FUNCTION_ARGS)
{
	return load_all(fcinfo, true);
}

/*
 * Both functions: with "from_file" the first argument is a file's name, else
 * it has the lines.  Each batch is a transaction of its own if the CALL may
 * commit.
 */
static Datum
load_all(FunctionCallInfo fcinfo, bool from_file)
{
	bool		commits = fcinfo->context != NULL &&
	IsA(fcinfo->context, CallContext) &&
	!castNode(CallContext, fcinfo->context)->atomic;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext spi;
	Load	   *load;
	Datum		row;

	PreventCommandIfReadOnly("cqrs_bulk_load()");
	SPI_connect_ext(commits ? SPI_OPT_NONATOMIC : 0);
	load = read_arguments(fcinfo, from_file);
	load->commits = commits;
	cqrs_progress_begin(&load->progress, CQRS_PROGRESS_LOAD, load->cqrs_id,
						load->relid, 0);
	if (!PG_ARGISNULL(1) && PG_GETARG_BOOL(1))
		clear_table(load);
	spi = CurrentMemoryContext;
	do
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(load->batch_context);
		MemoryContextSwitchTo(load->batch_context);
		load->lines = palloc(sizeof(CqrsLoadLine) * load->batch);
		load->nlines = cqrs_load_source_read(&load->source, load->batch,
											 load->lines);
		MemoryContextSwitchTo(spi);
		load_batch(load);
		if (load->commits)
		{
			SPI_commit();
			SPI_start_transaction();
		}
		cqrs_progress_update(&load->progress, CQRS_PROGRESS_APPLYING,
							 load->counts.loaded + load->counts.skipped,
							 load->source.bytes, NULL);
	} while (load->nlines > 0);
	cqrs_progress_end(&load->progress);
	MemoryContextSwitchTo(caller);
	row = result(fcinfo, load);
	SPI_finish();
	return row;
}

/* The result is in the context of SPI. */
static Load *
read_arguments(FunctionCallInfo fcinfo, bool from_file)
{
	Load	   *load = palloc0(sizeof(Load));
	CqrsLoadLine first;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"%s\" must not be null",
						from_file ? "filename" : "lines")));
	if (PG_ARGISNULL(2) || PG_GETARG_INT32(2) < 1 ||
		PG_GETARG_INT32(2) > 1000000)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"batch\" must be between 1 and 1000000"),
				 errdetail("The batch is the number of rows loaded in one transaction."),
				 errhint("Leave out the argument for the default.")));
	load->batch = PG_GETARG_INT32(2);
	load->group = Max(GROUP, load->batch / GROUPS);
	if (from_file)
		cqrs_load_source_open_file(&load->source,
								   text_to_cstring(PG_GETARG_TEXT_PP(0)));
	else
		cqrs_load_source_open_array(&load->source,
									PG_GETARG_ARRAYTYPE_P_COPY(0));
	if (cqrs_load_source_read(&load->source, 1, &first) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("the dump is empty"),
				 errhint("The first line of a dump is the cqrs_id.")));
	load->cqrs_id = pstrdup(cqrs_load_source_text(&load->source, &first));
	read_replica(load);
	if (!PG_ARGISNULL(1) && PG_GETARG_BOOL(1))
		check_paused();
	initStringInfo(&load->errors);
	load->batch_context = AllocSetContextCreate(CurrentMemoryContext,
												"cqrs load batch",
												ALLOCSET_DEFAULT_SIZES);
	load->lines_context = AllocSetContextCreate(CurrentMemoryContext,
												"cqrs load lines",
												ALLOCSET_DEFAULT_SIZES);
	return load;
}

/*
 * Look up the replica, whose owner the caller has to be.  Its table stays
 * locked to the end of the first transaction, which clear_table() relies on.
 */
static void
read_replica(Load *load)
{
	const CqrsReplica *replica = cqrs_on_behalf_find(load->cqrs_id);
	CqrsMapping mapping;
	Relation	rel;

	load->relid = replica->relid;
	load->owner = replica->owner;
	if (!has_privs_of_role(GetUserId(), load->owner))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE,
					   OidIsValid(load->relid) ? get_rel_name(load->relid) :
					   load->cqrs_id);
	if (!OidIsValid(load->relid))
	{
		load->nkeys = 1;
		load->keys[0] = "id";
		return;
	}
	rel = table_open(load->relid, AccessShareLock);
	cqrs_mapping_bind(rel, cqrs_replica_read(load->cqrs_id), &mapping);
	table_close(rel, NoLock);
	load->nkeys = mapping.nkeys;
	for (int i = 0; i < mapping.nkeys; i++)
		load->keys[i] = mapping.columns[mapping.keys[i]].key;
}

/*
 * What the consumer applies after the dump was made, and before the table is
 * cleared, would be lost.
 */
static void
check_paused(void)
{
	const CqrsSeat *seat = cqrs_seat_read();

	if (seat != NULL && !seat->paused)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot clear a replica while its messages are consumed"),
				 errdetail("Changes that are later than the dump would be lost."),
				 errhint("Call cqrs_pause_consumer() before the dump is made, and cqrs_resume_consumer() after it is loaded.")));
}

/*
 * Delete all rows with the rights of the owner.  Raises an error if the
 * replica has no table.
 */
static void
clear_table(const Load *load)
{
	CqrsOnBehalf behalf;

	if (!OidIsValid(load->relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" has no table", load->cqrs_id)));
	cqrs_on_behalf_begin(&behalf, load->owner);
	if (SPI_execute(psprintf("DELETE FROM %s",
							 quote_qualified_identifier(get_namespace_name(get_rel_namespace(load->relid)),
														get_rel_name(load->relid))),
					false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not clear replica \"%s\"", load->cqrs_id);
	cqrs_on_behalf_check_constraints();
	cqrs_on_behalf_end(&behalf);
}

/* Load the lines of the batch, a group at a time. */
static void
load_batch(Load *load)
{
	for (int from = 0; from < load->nlines; from += load->group)
		load_lines(load, from, Min(from + load->group, load->nlines));
}

/* Load lines; those that are bad are reported. */
static void
load_lines(Load *load, int from, int to)
{
	while (from < to)
	{
		int			at = try_lines(load, from, to);

		if (at < 0)
			return;
		if (to - from == 1)
			return;
		/* At the end of the group, no line is known to be the bad one. */
		if (at == to)
			at = from + (to - from) / 2;
		else if (at == from)
			at = from + 1;
		load_lines(load, from, at);
		from = at;
	}
}

/*
 * Load lines in a subtransaction.  Returns -1, or the number of the line that
 * has failed, "to" if it was at the end of all.  A single line that fails is
 * reported.
 */
static int
try_lines(Load *load, int from, int to)
{
	LineGroup	group = {.load = load,.from = from,.to = to,.at = from,
	.counts = load->counts};
	MemoryContext caller;
	ErrorData  *error;

	MemoryContextReset(load->lines_context);
	caller = MemoryContextSwitchTo(load->lines_context);
	error = cqrs_caught_run(apply_lines, &group);
	if (error == NULL)
		load->counts = group.counts;
	else
	{
		CqrsProblem problem;

		cqrs_verdict_describe(error, false, &problem);
		if (cqrs_verdict_may_pass(&problem))
			ReThrowError(error);
		if (to - from == 1)
			report_line(load, &load->lines[from], problem.full);
		cqrs_progress_resume(&load->progress);
	}
	MemoryContextSwitchTo(caller);
	return error == NULL ? -1 : group.at;
}

/*
 * Apply the lines from "from" up to "to", which is left out, and check
 * deferred constraints.  When an error is raised, *at is the number of its
 * line, or "to" if it is that of a constraint.
 */
static void
apply_lines(void *arg)
{
	LineGroup  *group = arg;
	Load	   *load = group->load;
	CqrsOnBehalf behalf;

	cqrs_on_behalf_begin(&behalf, load->owner);
	for (group->at = group->from; group->at < group->to; group->at++)
	{
		CHECK_FOR_INTERRUPTS();
		apply_line(load, behalf.applier, &load->lines[group->at],
				   &group->counts);
	}
	cqrs_on_behalf_check_constraints();
	cqrs_on_behalf_end(&behalf);
}

/*
 * Apply a line as a SAVE, and count it in *counts.  Raises the error that
 * makes the line a bad one.
 */
static void
apply_line(Load *load, CqrsApplier *applier, const CqrsLoadLine *line,
		   Counts *counts)
{
	CqrsIncoming message = {.signal = CQRS_SIGNAL_SAVE};
	CqrsApplied applied;
	char	   *problem;

	message.cqrs_id = load->cqrs_id;
	problem = read_line(cqrs_load_source_text(&load->source, line), &message);
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("the line is not a JSON object"),
				 errdetail_internal("%s", problem)));
	message.instance_pk = key_of(load, &message.data);
	cqrs_apply_message(applier, cqrs_on_behalf_find(load->cqrs_id), &message,
					   false, &applied);
	if (applied.outcome == CQRS_OUTCOME_DUPLICATE ||
		applied.outcome == CQRS_OUTCOME_OUTDATED)
		counts->skipped++;
	else
		counts->loaded++;
}

/*
 * Read a line as a message has it, so that the same is accepted.  Returns NULL
 * or a sentence that says what is wrong.
 */
static char *
read_line(const char *line, CqrsIncoming *message)
{
	char	   *text = psprintf("{\"instance_data\":%s}", line);
	int			length = strlen(text);
	CqrsJsonMembers outer = {0};
	const CqrsJsonValue *data;
	char	   *problem;
	bool		bare;

	problem = cqrs_json_scan_object(text, length, &outer, "instance_data",
									&message->data, &bare);
	if (problem == NULL && bare)
	{
		text = cqrs_json_scan_quote_bare(text, length, &length);
		problem = cqrs_json_scan_object(text, length, &outer, "instance_data",
										&message->data, &bare);
	}
	if (problem != NULL)
		return problem;
	data = &outer.members[0].value;
	if (outer.nmembers != 1 || data->kind != CQRS_JSON_OBJECT)
		return pstrdup("The line is another value, or more than one.");
	message->instance_data = pnstrdup(data->start, data->length);
	return NULL;
}

/* The key as instance_pk; null for a member that is missing. */
static char *
key_of(const Load *load, const CqrsJsonMembers *data)
{
	StringInfoData key;

	initStringInfo(&key);
	for (int i = 0; i < load->nkeys; i++)
	{
		const CqrsJsonValue *json = cqrs_json_scan_find(data, load->keys[i]);
		char	   *text = json == NULL ? NULL :
		cqrs_envelope_compact_key(json);

		if (load->nkeys > 1)
			appendStringInfoChar(&key, i == 0 ? '[' : ',');
		appendStringInfoString(&key, text == NULL ? "null" : text);
	}
	if (load->nkeys > 1)
		appendStringInfoChar(&key, ']');
	return key.data;
}

/* Count a bad line.  Errors after the first MAX_ERRORS are not kept. */
static void
report_line(Load *load, const CqrsLoadLine *line, const char *error)
{
	load->counts.failed++;
	if (load->counts.failed > MAX_ERRORS)
		return;
	appendStringInfo(&load->errors, "%s{\"line\":" INT64_FORMAT ",\"error\":",
					 load->errors.len == 0 ? "[" : ",", line->number);
	escape_json(&load->errors, error);
	appendStringInfoChar(&load->errors, '}');
}

/* The row that the procedure returns: the counts, and the errors or null. */
static Datum
result(FunctionCallInfo fcinfo, const Load *load)
{
	TupleDesc	desc;
	Datum		values[4];
	bool		nulls[4] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int64GetDatum(load->counts.loaded);
	values[1] = Int64GetDatum(load->counts.skipped);
	values[2] = Int64GetDatum(load->counts.failed);
	nulls[3] = load->errors.len == 0;
	values[3] = nulls[3] ? (Datum) 0 :
		DirectFunctionCall1(jsonb_in,
							CStringGetDatum(psprintf("%s]", load->errors.data)));
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values,
											 nulls));
}
