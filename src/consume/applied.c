/*-------------------------------------------------------------------------
 *
 * applied.c
 *	  The commits of the consumer of each database, in shared memory, and
 *	  waiting for the next one.
 *
 * A session reads the number of commits, then looks at rows, then waits for
 * another number: a commit while it looks ends the wait at once.  The number
 * goes up after the commit has become visible.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/sleep.h"
#include "base/slot.h"
#include "consume/applied.h"

typedef struct Applied
{
	pg_atomic_uint64 commits;
	ConditionVariable changed;	/* broadcast with each commit */
} Applied;

static Applied *applied;		/* by slot */

static void init_applied(void *element);

void
cqrs_applied_init(void)
{
	static const CqrsSharedArray array = {
		.name = "cqrs applied",
		.size = sizeof(Applied),
		.by_slot = true,
		.elements = (void **) &applied,
		.init = init_applied
	};

	cqrs_slot_add_array(&array);
}

static void
init_applied(void *element)
{
	Applied    *here = element;

	pg_atomic_init_u64(&here->commits, 0);
	ConditionVariableInit(&here->changed);
}

void
cqrs_applied_count_commit(void)
{
	Applied    *here = &applied[cqrs_slot_mine()];

	pg_atomic_fetch_add_u64(&here->commits, 1);
	ConditionVariableBroadcast(&here->changed);
}

uint64
cqrs_applied_commits(void)
{
	uint64		commits = pg_atomic_read_u64(&applied[cqrs_slot_mine()].commits);

	/* Rows are looked at afterwards. */
	pg_memory_barrier();
	return commits;
}

bool
cqrs_applied_wait(uint64 commits, TimestampTz deadline)
{
	Applied    *here = &applied[cqrs_slot_mine()];
	bool		changed;

	ConditionVariablePrepareToSleep(&here->changed);
	while (!(changed = pg_atomic_read_u64(&here->commits) != commits) &&
		   cqrs_sleep_until(&here->changed, deadline, CQRS_WAIT_APPLIED))
		;
	ConditionVariableCancelSleep();
	return changed;
}
