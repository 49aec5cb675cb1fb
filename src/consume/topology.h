/*-------------------------------------------------------------------------
 *
 * topology.h
 *	  The queue of the consumer and its bindings.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_TOPOLOGY_H
#define CQRS_TOPOLOGY_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "broker/transport.h"
#include "consume/intake_log.h"

typedef struct CqrsTopology CqrsTopology;

/* In TopMemoryContext. */
extern CqrsTopology *cqrs_topology_create(CqrsIntakeLog *log);

/*
 * The bindings (CqrsBinding) that the replicas of this database need, in the
 * current context, in UTF-8 and ordered by exchange.  Needs a transaction.
 */
extern List *cqrs_topology_read(const char *queue);

/*
 * Set the queue and the bindings that the broker is to have.  The bindings are
 * copied.
 */
extern void cqrs_topology_set(CqrsTopology *topology, const char *queue,
							  bool quorum, List *bindings);

/* A connection is new, or the queue is gone: all is to be done again. */
extern void cqrs_topology_connected(CqrsTopology *topology);

/* Try again what was refused. */
extern void cqrs_topology_retry(CqrsTopology *topology);

/* cqrs.exchange has changed: bindings so far stay, whatever is set. */
extern void cqrs_topology_keep(CqrsTopology *topology);

/* Whether the broker has accepted all. */
extern bool cqrs_topology_is_made(const CqrsTopology *topology);

/* Whether, and in how many milliseconds, there is something to do. */
extern bool cqrs_topology_is_due(const CqrsTopology *topology);
extern long cqrs_topology_wait_ms(const CqrsTopology *topology);

/*
 * Make queue and bindings at the broker.  An exchange that is refused is
 * logged, and tried again later.  Bindings that are not wanted any more are
 * removed with "owner" only: the connection has the lease of the queue.
 * Returns false if the connection has failed.
 */
extern bool cqrs_topology_apply(CqrsTopology *topology,
								const CqrsTransport *transport,
								CqrsConnection *connection, bool owner,
								CqrsFailure *failure);

/* Whether a routing key, in UTF-8, is one of messages to the queue alone. */
extern bool cqrs_topology_is_direct(const CqrsTopology *topology,
									const char *routing_key);

/* A palloc'd text in UTF-8, as brokers have it.  Needs no transaction. */
extern char *cqrs_topology_utf8(const char *text);

#endif							/* CQRS_TOPOLOGY_H */
