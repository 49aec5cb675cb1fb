/*-------------------------------------------------------------------------
 *
 * sleep.c
 *	  Sessions that wait for a worker.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "base/sleep.h"

bool
cqrs_sleep_until(ConditionVariable *variable, TimestampTz deadline,
				 CqrsWaitEvent event)
{
	long		wait_ms = -1;

	CHECK_FOR_INTERRUPTS();
	if (!TIMESTAMP_IS_NOEND(deadline))
	{
		wait_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
												  deadline);
		if (wait_ms <= 0)
			return false;
	}
	(void) ConditionVariableTimedSleep(variable, wait_ms, cqrs_wait_event(event));
	return true;
}
