/*-------------------------------------------------------------------------
 *
 * stats.c
 *	  What the publisher of a database has done and is doing.
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

#include "outbox.h"
#include "shared.h"
#include "utility.h"

PG_FUNCTION_INFO_V1(cqrs_sql_publisher_stats);
PG_FUNCTION_INFO_V1(cqrs_sql_watermark);
PG_FUNCTION_INFO_V1(cqrs_sql_wake_publisher);

static Datum timestamp_or_null(TimestampTz time, bool *isnull);

/*
 * cqrs.publisher_stats(OUT pid integer, OUT state text, OUT started_at
 * timestamptz, OUT connected_at timestamptz, OUT connects bigint,
 * OUT reconnects bigint, OUT published bigint, OUT confirmed bigint,
 * OUT returned bigint, OUT nacked bigint, OUT held bigint, OUT errors bigint,
 * OUT last_error text, OUT last_error_at timestamptz,
 * OUT stats_since timestamptz)
 *
 * One row, of the current database.
 */
Datum
cqrs_sql_publisher_stats(PG_FUNCTION_ARGS)
{
	CqrsSlot   *slot = cqrs_shared_my_slot();
	TupleDesc	desc;
	Datum		values[15];
	bool		nulls[15] = {false};
	char		last_error[CQRS_ERROR_BYTES];
	TimestampTz started_at;
	TimestampTz connected_at;
	TimestampTz last_error_at;
	uint64		connects = pg_atomic_read_u64(&slot->connects);
	pid_t		pid;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		desc->natts != lengthof(values))
		elog(ERROR, "unexpected result type");

	LWLockAcquire(cqrs_shared->lock, LW_SHARED);
	pid = slot->pid;
	started_at = slot->started_at;
	connected_at = slot->connected_at;
	last_error_at = slot->last_error_at;
	strlcpy(last_error, slot->last_error, CQRS_ERROR_BYTES);
	LWLockRelease(cqrs_shared->lock);

	nulls[0] = pid == 0;
	values[0] = Int32GetDatum(pid);
	values[1] = CStringGetTextDatum(cqrs_shared_state_name(pg_atomic_read_u32(&slot->state)));
	values[2] = timestamp_or_null(started_at, &nulls[2]);
	values[3] = timestamp_or_null(connected_at, &nulls[3]);
	values[4] = Int64GetDatum((int64) connects);
	values[5] = Int64GetDatum((int64) (connects > 0 ? connects - 1 : 0));
	values[6] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->published));
	values[7] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->confirmed));
	values[8] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->returned));
	values[9] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->nacked));
	values[10] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->held));
	values[11] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->errors));
	nulls[12] = last_error_at == 0;
	values[12] = CStringGetTextDatum(last_error);
	values[13] = timestamp_or_null(last_error_at, &nulls[13]);
	values[14] = timestamp_or_null(cqrs_shared->since, &nulls[14]);

	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/* cqrs.current_watermark() RETURNS bigint */
Datum
cqrs_sql_watermark(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(cqrs_outbox_watermark());
}

/* cqrs.wake_publisher() RETURNS void: start it, or have it look around. */
Datum
cqrs_sql_wake_publisher(PG_FUNCTION_ARGS)
{
	cqrs_utility_wake_at_commit();
	PG_RETURN_VOID();
}

static Datum
timestamp_or_null(TimestampTz time, bool *isnull)
{
	*isnull = time == 0;
	return TimestampTzGetDatum(time);
}
