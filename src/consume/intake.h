/*-------------------------------------------------------------------------
 *
 * intake.h
 *	  The consumer's connection to the broker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_INTAKE_H
#define CQRS_INTAKE_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "consume/consumer_state.h"
#include "consume/inbox.h"
#include "consume/seat.h"

typedef struct CqrsIntake CqrsIntake;

typedef enum CqrsIntakeGoal
{
	CQRS_INTAKE_CLOSED,			/* no connection */
	CQRS_INTAKE_PREPARED,		/* queue and bindings, then no connection */
	CQRS_INTAKE_CONSUMING
} CqrsIntakeGoal;

/* Create an intake that fills "inbox". */
extern CqrsIntake *cqrs_intake_create(CqrsInbox *inbox);

/*
 * Set what is consumed: the row of cqrs.consumer, and the bindings of all
 * replicas, in UTF-8 and ordered by exchange.  Both are copied.  A change of
 * the queue ends the connection.
 */
extern void cqrs_intake_configure(CqrsIntake *intake, const CqrsSeat *seat,
								  List *bindings);

/* The settings have changed. */
extern void cqrs_intake_reload(CqrsIntake *intake);

/*
 * With "wary", the window does not grow with commits: one of the next messages
 * may crash the server.
 */
extern void cqrs_intake_set_wary(CqrsIntake *intake, bool wary);

/*
 * Connect if an attempt is due, and mend queue and bindings; disconnect if no
 * messages are to be consumed.  May reset the latch.  Commits transactions of
 * its own.
 */
extern void cqrs_intake_turn(CqrsIntake *intake, CqrsIntakeGoal goal);

/* Take some of what has arrived. */
extern void cqrs_intake_receive(CqrsIntake *intake);

/*
 * Serve the connection if that is due, in the midst of a transaction.  Never
 * closes it: a failure is handled by the next turn() or receive().
 */
extern void cqrs_intake_serve(CqrsIntake *intake);

/*
 * All deliveries up to that tag are committed: remove them from the inbox,
 * widen the window, and acknowledge them, at once or soon.
 */
extern void cqrs_intake_acknowledge(CqrsIntake *intake, uint64 tag);

/* Whether a routing key is one of messages to this queue alone. */
extern bool cqrs_intake_is_direct(const CqrsIntake *intake,
								  const char *routing_key);

/*
 * Whether the connection is lost, and the next turn() closes it.  If so, an
 * error may have come from serve().
 */
extern bool cqrs_intake_is_lost(const CqrsIntake *intake);

/* Whether nothing is to be applied yet, for the order of a quorum queue. */
extern bool cqrs_intake_gathers(const CqrsIntake *intake);

/* A number for the current connection; another one after it was closed. */
extern uint64 cqrs_intake_connection(const CqrsIntake *intake);

/*
 * Delete the queue, if there is a connection.  Returns whether it is gone.
 */
extern bool cqrs_intake_delete_queue(CqrsIntake *intake);

/* Acknowledge what is committed, and close the connection. */
extern void cqrs_intake_finish(CqrsIntake *intake);

/*
 * Whether the broker has queue and bindings, or another database takes care of
 * them.
 */
extern bool cqrs_intake_is_prepared(const CqrsIntake *intake);

/* The state of the connection. */
extern CqrsConsumerState cqrs_intake_state(const CqrsIntake *intake);

/* What to wait for. */
extern pgsocket cqrs_intake_socket(const CqrsIntake *intake, bool *write);
extern long cqrs_intake_wait_ms(const CqrsIntake *intake, CqrsIntakeGoal goal);

#endif							/* CQRS_INTAKE_H */
