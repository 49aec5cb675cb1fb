/*-------------------------------------------------------------------------
 *
 * timing.h
 *	  Arithmetic of timeouts and delays.
 *
 * They are measured by the clock of the system, as PostgreSQL's own.  When it is
 * set back, a point in time is suddenly far away.  So whoever knows how long a
 * wait is at most uses cqrs_until_after_ms() or cqrs_until_within_ms(), for
 * which a wait of more than twice that time is over.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_TIMING_H
#define CQRS_TIMING_H

#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/guc.h"

/* Milliseconds from now to "when", 0 if "when" has passed. */
static inline long
cqrs_until_ms(TimestampTz when)
{
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), when);
}

/* The same; "when" was at most "most_ms" away when it was set. */
static inline long
cqrs_until_within_ms(TimestampTz when, int64 most_ms)
{
	long		wait_ms = cqrs_until_ms(when);

	return wait_ms > 2 * most_ms ? 0 : wait_ms;
}

/* Milliseconds from now to "ms" after "start", 0 if that time has passed. */
static inline long
cqrs_until_after_ms(TimestampTz start, int64 ms)
{
	return cqrs_until_within_ms(TimestampTzPlusMilliseconds(start, ms), ms);
}

/* The shorter of two times to wait, where -1 means for ever. */
static inline long
cqrs_sooner_ms(long a, long b)
{
	if (a < 0)
		return b;
	return b < 0 ? a : Min(a, b);
}

/*
 * The delay after a number of failures in a row.  It doubles with each failure
 * up to a limit, minus up to a quarter at random.
 */
static inline int64
cqrs_backoff_ms(int failures)
{
	double		delay_ms = cqrs_reconnect_delay_ms *
	(double) (UINT64CONST(1) << Min(failures, 30));

	delay_ms = Min(delay_ms, cqrs_reconnect_delay_max_ms);
	return (int64) (delay_ms * (1.0 - 0.25 * pg_prng_double(&pg_global_prng_state)));
}

#endif							/* CQRS_TIMING_H */
