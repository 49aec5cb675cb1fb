/*-------------------------------------------------------------------------
 *
 * consumer_state.c
 *	  The names of the consumer's states and counters.
 *
 * Each counter is a column of cqrs.consumer_process(), with the same name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/apply.h"
#include "consume/consumer_state.h"

StaticAssertDecl(CQRS_CONSUMED_UNKNOWN ==
				 CQRS_CONSUMED_OUTCOMES + CQRS_OUTCOME_REPEATED + 1,
				 "each outcome has a counter");
StaticAssertDecl(CQRS_CONSUMED_BUFFERED < CQRS_WORKER_MAX_COUNTERS,
				 "the roster has room for all counters");

#define OUTCOME(outcome) CQRS_CONSUMED_OUTCOMES + CQRS_OUTCOME_##outcome

const char *const cqrs_consumer_state_names[] = {
	[CQRS_CONSUMER_STOPPED] = "stopped",
	[CQRS_CONSUMER_STARTING] = "starting",
	[CQRS_CONSUMER_UNCONFIGURED] = "unconfigured",
	[CQRS_CONSUMER_PAUSED] = "paused",
	[CQRS_CONSUMER_CONNECTING] = "connecting",
	[CQRS_CONSUMER_CONSUMING] = "consuming",
	[CQRS_CONSUMER_WAITING] = "waiting",
	[CQRS_CONSUMER_STANDING_BY] = "standing by",
	[CQRS_CONSUMER_FULL] = "full",
	[CQRS_CONSUMER_BACKING_OFF] = "backing off",
	NULL
};

const char *const cqrs_consumer_state_counters[] = {
	[CQRS_WORKER_ERRORS] = "errors",
	[CQRS_WORKER_CONNECTS] = "connects",
	[CQRS_CONSUMED_RECEIVED] = "received",
	[CQRS_CONSUMED_REDELIVERED] = "redelivered",
	[CQRS_CONSUMED_BATCHES] = "batches",
	[OUTCOME(INSERTED)] = "inserted",
	[OUTCOME(UPDATED)] = "updated",
	[OUTCOME(DELETED)] = "deleted",
	[OUTCOME(DUPLICATE)] = "duplicates",
	[OUTCOME(OUTDATED)] = "outdated",
	[OUTCOME(ABSENT)] = "absent",
	[OUTCOME(IGNORED)] = "ignored",
	[OUTCOME(HANDLED)] = "handled",
	[OUTCOME(REPEATED)] = "repeated",
	[CQRS_CONSUMED_UNKNOWN] = "unknown",
	[CQRS_CONSUMED_GAPS] = "gaps",
	[CQRS_CONSUMED_DOWNGRADES] = "downgrades",
	[CQRS_CONSUMED_UNKNOWN_KEYS] = "unknown_keys",
	[CQRS_CONSUMED_FAILURES] = "failures",
	[CQRS_CONSUMED_DEAD_LETTERS] = "dead_letters",
	[CQRS_CONSUMED_RETRIED] = "retried",
	[CQRS_CONSUMED_HIGHEST_COUNT] = "delivery_count",
	[CQRS_CONSUMED_WINDOW] = "prefetch",
	[CQRS_CONSUMED_BUFFERED] = "buffered",
	NULL
};
