/*-------------------------------------------------------------------------
 *
 * state.c
 *	  The names of a publisher's states and counters.
 *
 * Each counter is a column of cqrs.publisher_stats(), with the same name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "publish/state.h"

const char *const cqrs_state_names[] = {
	[CQRS_STATE_STOPPED] = "stopped",
	[CQRS_STATE_STARTING] = "starting",
	[CQRS_STATE_UNCONFIGURED] = "unconfigured",
	[CQRS_STATE_RESTORED] = "restored",
	[CQRS_STATE_PAUSED] = "paused",
	[CQRS_STATE_CONNECTING] = "connecting",
	[CQRS_STATE_PUBLISHING] = "publishing",
	[CQRS_STATE_BLOCKED] = "blocked",
	[CQRS_STATE_WAITING] = "waiting",
	[CQRS_STATE_STANDING_BY] = "standing by",
	NULL
};

const char *const cqrs_state_counters[] = {
	[CQRS_WORKER_ERRORS] = "errors",
	[CQRS_WORKER_CONNECTS] = "connects",
	[CQRS_COUNTER_PUBLISHED] = "published",
	[CQRS_COUNTER_CONFIRMED] = "confirmed",
	[CQRS_COUNTER_RETURNED] = "returned",
	[CQRS_COUNTER_NACKED] = "nacked",
	[CQRS_COUNTER_HELD] = "held",
	[CQRS_COUNTER_UNBOUND] = "unbound",
	NULL
};
