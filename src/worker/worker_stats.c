/*-------------------------------------------------------------------------
 *
 * worker_stats.c
 *	  What the publishers of a database have done and are doing.
 *
 * The counters are in shared memory, since the start of the server; what is
 * pending is read from the outbox.
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

#include "base/shared.h"
#include "worker/wake.h"

PG_FUNCTION_INFO_V1(cqrs_sql_publisher_stats);
PG_FUNCTION_INFO_V1(cqrs_sql_wake_publisher);

#define STATS_NATTS		16

static Datum lane_stats(CqrsSlot *slot, int number, int nlanes,
						TupleDesc desc);
static Datum timestamp_or_null(TimestampTz time, bool *isnull);

/*
 * cqrs.publisher_stats(OUT lane integer, OUT lanes integer, OUT pid integer,
 * OUT state text, OUT started_at timestamptz, OUT connected_at timestamptz,
 * OUT connects bigint, OUT published bigint, OUT confirmed bigint,
 * OUT returned bigint, OUT nacked bigint, OUT held bigint, OUT errors bigint,
 * OUT last_error text, OUT last_error_at timestamptz,
 * OUT stats_since timestamptz) RETURNS SETOF record
 *
 * A row for each lane of the current database that is in force, or has been.
 */
Datum
cqrs_sql_publisher_stats(PG_FUNCTION_ARGS)
{
	CqrsSlot   *slot = cqrs_shared_my_slot();
	FuncCallContext *context;
	int			nlanes;

	if (SRF_IS_FIRSTCALL())
	{
		TupleDesc	desc;
		MemoryContext caller;

		context = SRF_FIRSTCALL_INIT();
		caller = MemoryContextSwitchTo(context->multi_call_memory_ctx);
		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
			desc->natts != STATS_NATTS)
			elog(ERROR, "unexpected result type");
		context->tuple_desc = BlessTupleDesc(desc);
		/* Before the launcher has decided, there is one that is stopped. */
		nlanes = Max(pg_atomic_read_u32(&slot->nlanes), 1);
		context->user_fctx = (void *) (intptr_t) nlanes;
		MemoryContextSwitchTo(caller);
	}
	context = SRF_PERCALL_SETUP();
	nlanes = (intptr_t) context->user_fctx;

	for (int i = context->call_cntr; i < CQRS_MAX_LANES; i++)
	{
		if (i >= nlanes && *(volatile TimestampTz *) &slot->lanes[i].started_at == 0)
			break;
		SRF_RETURN_NEXT(context, lane_stats(slot, i, nlanes, context->tuple_desc));
	}
	SRF_RETURN_DONE(context);
}

static Datum
lane_stats(CqrsSlot *slot, int number, int nlanes, TupleDesc desc)
{
	CqrsLane   *lane = &slot->lanes[number];
	Datum		values[STATS_NATTS];
	bool		nulls[STATS_NATTS] = {false};
	char		last_error[CQRS_ERROR_BYTES];
	TimestampTz started_at;
	TimestampTz connected_at;
	TimestampTz last_error_at;
	pid_t		pid;

	LWLockAcquire(cqrs_shared->lock, LW_SHARED);
	pid = lane->pid;
	started_at = lane->started_at;
	connected_at = lane->connected_at;
	last_error_at = lane->last_error_at;
	strlcpy(last_error, lane->last_error, CQRS_ERROR_BYTES);
	LWLockRelease(cqrs_shared->lock);

	values[0] = Int32GetDatum(number);
	values[1] = Int32GetDatum(nlanes);
	nulls[2] = pid == 0;
	values[2] = Int32GetDatum(pid);
	values[3] = CStringGetTextDatum(cqrs_shared_state_name(pg_atomic_read_u32(&lane->state)));
	values[4] = timestamp_or_null(started_at, &nulls[4]);
	values[5] = timestamp_or_null(connected_at, &nulls[5]);
	values[6] = Int64GetDatum((int64) pg_atomic_read_u64(&lane->connects));
	values[7] = Int64GetDatum((int64) pg_atomic_read_u64(&lane->published));
	values[8] = Int64GetDatum((int64) pg_atomic_read_u64(&lane->confirmed));
	values[9] = Int64GetDatum((int64) pg_atomic_read_u64(&lane->returned));
	values[10] = Int64GetDatum((int64) pg_atomic_read_u64(&lane->nacked));
	values[11] = Int64GetDatum((int64) pg_atomic_read_u64(&lane->held));
	values[12] = Int64GetDatum((int64) pg_atomic_read_u64(&lane->errors));
	nulls[13] = last_error_at == 0;
	values[13] = CStringGetTextDatum(last_error);
	values[14] = timestamp_or_null(last_error_at, &nulls[14]);
	values[15] = timestamp_or_null(cqrs_shared->since, &nulls[15]);

	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* cqrs.wake_publisher() RETURNS void: start it, or have it look around. */
Datum
cqrs_sql_wake_publisher(PG_FUNCTION_ARGS)
{
	cqrs_wake_at_commit();
	PG_RETURN_VOID();
}

static Datum
timestamp_or_null(TimestampTz time, bool *isnull)
{
	*isnull = time == 0;
	return TimestampTzGetDatum(time);
}
