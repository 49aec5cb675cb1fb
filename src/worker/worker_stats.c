/*-------------------------------------------------------------------------
 *
 * worker_stats.c
 *	  Statistics of the workers of a database.
 *
 * The counters are in shared memory; stats_file.c keeps them over a restart.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/slot.h"
#include "worker/roster.h"
#include "worker/wake.h"

PG_FUNCTION_INFO_V1(cqrs_sql_publisher_stats);
PG_FUNCTION_INFO_V1(cqrs_sql_consumer_process);
PG_FUNCTION_INFO_V1(cqrs_sql_wake_publisher);
PG_FUNCTION_INFO_V1(cqrs_sql_wake_consumer);

/* Columns that all kinds have.  Other columns are counters, found by name. */
enum
{
	STATS_LANE = 0,
	STATS_LANES,
	STATS_PID,
	STATS_STATE,
	STATS_STARTED_AT,
	STATS_CONNECTED_AT,
	STATS_LAST_ERROR,
	STATS_LAST_ERROR_AT,
	STATS_ADVICE,
	STATS_SINCE,
	STATS_NCOLUMNS
};

static const char *const columns[STATS_NCOLUMNS] = {
	[STATS_LANE] = "lane",
	[STATS_LANES] = "lanes",
	[STATS_PID] = "pid",
	[STATS_STATE] = "state",
	[STATS_STARTED_AT] = "started_at",
	[STATS_CONNECTED_AT] = "connected_at",
	[STATS_LAST_ERROR] = "last_error",
	[STATS_LAST_ERROR_AT] = "last_error_at",
	[STATS_ADVICE] = "advice",
	[STATS_SINCE] = "stats_since"
};

static Datum show(FunctionCallInfo fcinfo, CqrsWorkerKind kind);
static Datum process_stats(int slot, CqrsWorkerKind kind, int number,
						   int count, TupleDesc desc);
static int	count_shown(int slot, CqrsWorkerKind kind, int count);
static int	find_name(const char *const *names, int length, const char *name);
static int	list_length_of(const char *const *names);
static Datum timestamp_or_null(TimestampTz time, bool *isnull);

/*
 * cqrs.publisher_stats() RETURNS SETOF record
 *
 * One row for each lane that the current database has or has had.
 */
Datum
cqrs_sql_publisher_stats(PG_FUNCTION_ARGS)
{
	return show(fcinfo, CQRS_WORKER_PUBLISHER);
}

/* cqrs.consumer_process() RETURNS SETOF record: one row */
Datum
cqrs_sql_consumer_process(PG_FUNCTION_ARGS)
{
	return show(fcinfo, CQRS_WORKER_CONSUMER);
}

/* The processes of a kind, with the columns that the function returns. */
static Datum
show(FunctionCallInfo fcinfo, CqrsWorkerKind kind)
{
	int			slot = cqrs_slot_mine();
	CqrsRosterKind *workers = &cqrs_rosters[slot].kinds[kind];
	FuncCallContext *context;
	int			count;
	int			number;

	if (SRF_IS_FIRSTCALL())
	{
		TupleDesc	desc;
		MemoryContext caller;

		context = SRF_FIRSTCALL_INIT();
		caller = MemoryContextSwitchTo(context->multi_call_memory_ctx);
		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "unexpected result type");
		context->tuple_desc = BlessTupleDesc(desc);
		/* Until the launcher has set the number, show one stopped worker. */
		count = Max(pg_atomic_read_u32(&workers->count), 1);
		context->user_fctx = (void *) (intptr_t) count;
		context->max_calls = count_shown(slot, kind, count);
		MemoryContextSwitchTo(caller);
	}
	context = SRF_PERCALL_SETUP();
	count = (intptr_t) context->user_fctx;
	/* The macro increments the counter before it looks at its argument. */
	number = context->call_cntr;
	if (number < context->max_calls)
		SRF_RETURN_NEXT(context, process_stats(slot, kind, number, count,
											   context->tuple_desc));
	SRF_RETURN_DONE(context);
}

/* The current processes, and those above up to the last one that has counted. */
static int
count_shown(int slot, CqrsWorkerKind kind, int count)
{
	for (int i = CQRS_MAX_LANES; i > count; i--)
	{
		if (cqrs_roster_has_counted(slot, kind, i - 1))
			return i;
	}
	return count;
}

/* A row with the columns that "desc" names. */
static Datum
process_stats(int slot, CqrsWorkerKind kind, int number, int count,
			  TupleDesc desc)
{
	const CqrsWorkerClass *class = cqrs_kind_class(kind);
	CqrsRosterProcess *process = &cqrs_rosters[slot].kinds[kind].processes[number];
	int			ncounters = list_length_of(class->counters);
	Datum		common[STATS_NCOLUMNS];
	bool		common_nulls[STATS_NCOLUMNS] = {false};
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc0(sizeof(bool) * desc->natts);
	CqrsRosterProcess shown;

	LWLockAcquire(cqrs_slot_lock, LW_SHARED);
	memcpy(&shown, process, sizeof(shown));
	LWLockRelease(cqrs_slot_lock);

	common[STATS_LANE] = Int32GetDatum(number);
	common[STATS_LANES] = Int32GetDatum(count);
	common_nulls[STATS_PID] = shown.pid == 0;
	common[STATS_PID] = Int32GetDatum(shown.pid);
	common[STATS_STATE] =
		CStringGetTextDatum(class->states[pg_atomic_read_u32(&process->state)]);
	common[STATS_STARTED_AT] =
		timestamp_or_null(shown.started_at, &common_nulls[STATS_STARTED_AT]);
	common[STATS_CONNECTED_AT] =
		timestamp_or_null(shown.connected_at,
						  &common_nulls[STATS_CONNECTED_AT]);
	common_nulls[STATS_LAST_ERROR] = shown.last_error_at == 0;
	common[STATS_LAST_ERROR] = CStringGetTextDatum(shown.last_error);
	common[STATS_LAST_ERROR_AT] =
		timestamp_or_null(shown.last_error_at,
						  &common_nulls[STATS_LAST_ERROR_AT]);
	common_nulls[STATS_ADVICE] = shown.advice[0] == '\0';
	common[STATS_ADVICE] = CStringGetTextDatum(shown.advice);
	common[STATS_SINCE] = TimestampTzGetDatum(cqrs_rosters[slot].since);

	for (int i = 0; i < desc->natts; i++)
	{
		const char *name = NameStr(TupleDescAttr(desc, i)->attname);
		int			column = find_name(columns, STATS_NCOLUMNS, name);
		int			counter = find_name(class->counters, ncounters, name);

		if (column >= 0)
		{
			values[i] = common[column];
			nulls[i] = common_nulls[column];
		}
		else if (counter >= 0)
			values[i] = Int64GetDatum((int64) pg_atomic_read_u64(&process->counters[counter]));
		else
			elog(ERROR, "there is no statistic \"%s\"", name);
	}
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/*
 * cqrs.wake_publisher() RETURNS void: start the publisher, or have it look at
 * the catalog.
 */
Datum
cqrs_sql_wake_publisher(PG_FUNCTION_ARGS)
{
	cqrs_wake_want_at_commit(CQRS_WORKER_PUBLISHER);
	PG_RETURN_VOID();
}

/* cqrs.wake_consumer() RETURNS void: the same for the consumer. */
Datum
cqrs_sql_wake_consumer(PG_FUNCTION_ARGS)
{
	cqrs_wake_want_at_commit(CQRS_WORKER_CONSUMER);
	PG_RETURN_VOID();
}

/* The index of a name in a list, or -1. */
static int
find_name(const char *const *names, int length, const char *name)
{
	for (int i = 0; i < length; i++)
	{
		if (strcmp(names[i], name) == 0)
			return i;
	}
	return -1;
}

/* The length of a list of names that ends with NULL. */
static int
list_length_of(const char *const *names)
{
	int			length = 0;

	while (names[length] != NULL)
		length++;
	return length;
}

/* 0 is null. */
static Datum
timestamp_or_null(TimestampTz time, bool *isnull)
{
	*isnull = time == 0;
	return TimestampTzGetDatum(time);
}
