/*-------------------------------------------------------------------------
 *
 * amqp.h
 *	  What the two parts of the transport by AMQP share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_AMQP_H
#define CQRS_AMQP_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "base/url.h"
#include "broker/amqp_frames.h"
#include "broker/transport.h"

#define CQRS_AMQP_CHANNEL	1
struct CqrsConnection
{
	CqrsFrames *frames;
	MemoryContext context;		/* of this and all that belongs to it */
	List	   *exchanges;		/* names of those that have been declared */
	int			heartbeat_s;	/* as agreed, 0: none */
	TimestampTz deadline;		/* of the handshake */
	CqrsEvent	early;			/* what came during the handshake */

	bool		returning;		/* reading the content of a returned message */
	uint64_t	return_rest;	/* bytes of its body that are to come */
	char		return_id[256]; /* its message id */
};

/* in amqp_handshake.c */

/*
 * Log in; open the channel with all that belongs to it: the lease, the
 * exchange, confirms.  These wait until the connection's deadline.
 */
extern bool cqrs_amqp_log_in(CqrsConnection *connection, const CqrsUrl *url,
							 int heartbeat_s, CqrsFailure *failure);
extern bool cqrs_amqp_open_channel(CqrsConnection *connection,
								   const CqrsConnectOptions *options,
								   CqrsFailure *failure);

/*
 * Send what there is, and wait for a method, which is then in *frame.  What
 * the broker tells meanwhile is kept for poll().
 */
extern bool cqrs_amqp_await(CqrsConnection *connection,
							amqp_method_number_t expected, const char *action,
							amqp_frame_t *frame, CqrsFailure *failure);

/* in amqp.c */

extern void cqrs_amqp_declare_exchange(CqrsConnection *connection,
									   const char *exchange);

/* Make an event of a method from the broker. */
extern void cqrs_amqp_handle_method(CqrsConnection *connection,
									const amqp_method_t *method,
									CqrsEvent *event, CqrsFailure *failure);

extern void cqrs_amqp_fail(CqrsFailure *failure, CqrsBlame blame,
						   const char *format,...) pg_attribute_printf(3, 4);

/* Put the broker's own words into "failure". */
extern void cqrs_amqp_describe_close(CqrsFailure *failure, const char *action,
									 const amqp_method_t *method);

#endif							/* CQRS_AMQP_H */
