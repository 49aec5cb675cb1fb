/*-------------------------------------------------------------------------
 *
 * consumer_state.h
 *	  The consumer's state and counters, as the views show them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_CONSUMER_STATE_H
#define CQRS_CONSUMER_STATE_H

#include "postgres.h"

#include "worker/kind.h"

/*
 * States of the consumer.  STOPPED: no process.  STARTING → UNCONFIGURED,
 * PAUSED or CONNECTING.  UNCONFIGURED (no URL) → CONNECTING once a URL is set.
 * CONNECTING → CONSUMING, WAITING after a failure, STANDING_BY while another
 * database consumes the queue.  CONSUMING → WAITING when the connection is
 * lost.  FULL while cqrs.max_failed messages wait for a retry; BACKING_OFF
 * while nothing can be committed: without a connection, too.  PAUSED by
 * cqrs_pause_consumer().  Any → STOPPED.
 */
typedef enum CqrsConsumerState
{
	CQRS_CONSUMER_STOPPED = CQRS_WORKER_STOPPED,
	CQRS_CONSUMER_STARTING = CQRS_WORKER_STARTING,
	CQRS_CONSUMER_UNCONFIGURED = CQRS_WORKER_FIRST_STATE,
	CQRS_CONSUMER_PAUSED,
	CQRS_CONSUMER_CONNECTING,
	CQRS_CONSUMER_CONSUMING,
	CQRS_CONSUMER_WAITING,
	CQRS_CONSUMER_STANDING_BY,
	CQRS_CONSUMER_FULL,
	CQRS_CONSUMER_BACKING_OFF
} CqrsConsumerState;

/* Counters of the consumer: of messages, unless a note says otherwise. */
typedef enum CqrsConsumerCounter
{
	CQRS_CONSUMED_RECEIVED = CQRS_WORKER_FIRST_COUNTER,
	CQRS_CONSUMED_REDELIVERED,	/* of these, marked so by the broker */
	CQRS_CONSUMED_BATCHES,		/* transactions that have committed */
	CQRS_CONSUMED_OUTCOMES,		/* one for each CqrsOutcome, in its order */
	CQRS_CONSUMED_UNKNOWN = CQRS_CONSUMED_OUTCOMES + 9, /* no such replica */
	CQRS_CONSUMED_GAPS,
	CQRS_CONSUMED_DOWNGRADES,
	CQRS_CONSUMED_UNKNOWN_KEYS,
	CQRS_CONSUMED_FAILURES,		/* attempts that were stored as failed */
	CQRS_CONSUMED_DEAD_LETTERS,
	CQRS_CONSUMED_RETRIED,		/* failed messages that were applied later */
	CQRS_CONSUMED_HIGHEST_COUNT,	/* highest delivery count of a message,
									 * and the first gauge */
	CQRS_CONSUMED_WINDOW,
	CQRS_CONSUMED_BUFFERED		/* received, not acknowledged */
}			CqrsConsumerCounter;

/* Their names; the last one is NULL. */
extern const char *const cqrs_consumer_state_names[];
extern const char *const cqrs_consumer_state_counters[];

#endif							/* CQRS_CONSUMER_STATE_H */
