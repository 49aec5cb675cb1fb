/*-------------------------------------------------------------------------
 *
 * state.h
 *	  A publisher's state and counters, as the views show them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_STATE_H
#define CQRS_STATE_H

#include "postgres.h"

#include "worker/kind.h"

/*
 * States of a publisher.  STOPPED: no process.  STARTING → UNCONFIGURED,
 * RESTORED, PAUSED or CONNECTING.  UNCONFIGURED (no cqrs.url) → CONNECTING once
 * a URL is set.  RESTORED (base/home.h), PAUSED → CONNECTING on cqrs_resume().
 * CONNECTING → PUBLISHING, or WAITING after a failure.  WAITING (for the next
 * attempt, or for lane 0) → CONNECTING.
 * PUBLISHING (connected) → BLOCKED while the broker asks for silence, WAITING
 * when the connection is lost, RESTORED, PAUSED, UNCONFIGURED.  BLOCKED → as
 * PUBLISHING.
 * CONNECTING → STANDING_BY while another publisher has the lease → CONNECTING.
 * Lanes above 0 also get there from PUBLISHING and WAITING, when lane 0 does.
 * Any → STOPPED.
 */
typedef enum CqrsPublisherState
{
	CQRS_STATE_STOPPED = CQRS_WORKER_STOPPED,
	CQRS_STATE_STARTING = CQRS_WORKER_STARTING,
	CQRS_STATE_UNCONFIGURED = CQRS_WORKER_FIRST_STATE,
	CQRS_STATE_RESTORED,
	CQRS_STATE_PAUSED,
	CQRS_STATE_CONNECTING,
	CQRS_STATE_PUBLISHING,
	CQRS_STATE_BLOCKED,
	CQRS_STATE_WAITING,
	CQRS_STATE_STANDING_BY
} CqrsPublisherState;

/* Counters of a publisher. */
typedef enum CqrsPublisherCounter
{
	CQRS_COUNTER_PUBLISHED = CQRS_WORKER_FIRST_COUNTER, /* resends included */
	CQRS_COUNTER_CONFIRMED,
	CQRS_COUNTER_RETURNED,
	CQRS_COUNTER_NACKED,
	CQRS_COUNTER_HELD,			/* masters whose messages are held now */
	CQRS_COUNTER_UNBOUND		/* masters whose last messages were returned,
								 * at most 100 */
}			CqrsPublisherCounter;

/* Their names; the last one is NULL. */
extern const char *const cqrs_state_names[];
extern const char *const cqrs_state_counters[];

#endif							/* CQRS_STATE_H */
