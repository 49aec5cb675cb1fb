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

#include "broker/amqp_frames.h"
#include "broker/transport.h"

#define CQRS_AMQP_CHANNEL	1
#define CQRS_AMQP_PROBE_CHANNEL	2

/* The second channel, which the broker may close (amqp_probe.c). */
typedef enum CqrsProbeState
{
	CQRS_PROBE_CLOSED,			/* there is no such channel */
	CQRS_PROBE_IDLE,			/* it is open */
	CQRS_PROBE_DECLARING,		/* it is open, or being opened; declare-ok is
								 * to come */
	CQRS_PROBE_DECLARED,		/* the message may be sent */
	CQRS_PROBE_SENT,			/* its confirm is to come */
	CQRS_PROBE_CLOSING			/* close-ok is to come */
} CqrsProbeState;

typedef enum CqrsReturn
{
	CQRS_RETURN_NONE,			/* no message is being returned */
	CQRS_RETURN_HEADER,			/* next is the header of its content */
	CQRS_RETURN_BODY			/* next is its body, or more of that */
} CqrsReturn;

struct CqrsConnection
{
	CqrsFrames *frames;
	MemoryContext context;		/* of this and all that belongs to it */
	int			declaring;		/* exchanges, on the first channel */
	uint64		published;		/* messages there, which is the last tag */
	bool		more;			/* poll() has not read all that has come */
	int			heartbeat_s;	/* as agreed, 0: none */
	TimestampTz deadline;		/* of the handshake */
	CqrsEvent	early;			/* what came during the handshake */

	CqrsReturn	returning;		/* what is to come of a returned message */
	uint64		return_rest;	/* bytes of its body that are to come */
	char		return_id[256]; /* its message id */

	CqrsProbeState probe;
};

/* in amqp_handshake.c */

/*
 * Log in; open the channel with all that belongs to it: the lease, the
 * exchange, confirms.  These wait until the connection's deadline.
 */
extern bool cqrs_amqp_log_in(CqrsConnection *connection,
							 const CqrsConnectOptions *options,
							 CqrsFailure *failure);
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
									   int channel, const char *exchange);
extern void cqrs_amqp_put_message(CqrsConnection *connection, int channel,
								  const CqrsEnvelope *envelope);

/* Whether a frame is on the channel that frames of its kind belong to. */
extern bool cqrs_amqp_is_channel_right(const amqp_frame_t *frame);

/*
 * Make an event of a frame from the broker; FAILED, with "failure" filled in,
 * for all that a broker has no reason to send now.  "action" is what could not
 * be done in that case.
 */
extern void cqrs_amqp_handle_frame(CqrsConnection *connection,
								   const amqp_frame_t *frame,
								   const char *action, CqrsEvent *event,
								   CqrsFailure *failure);

extern void cqrs_amqp_fail(CqrsFailure *failure, CqrsBlame blame,
						   const char *format,...) pg_attribute_printf(3, 4);

/* Put the broker's own words into "failure". */
extern void cqrs_amqp_describe_close(CqrsFailure *failure, const char *action,
									 const amqp_method_t *method);

/* in amqp_probe.c */

/* As in transport.h. */
extern bool cqrs_amqp_can_probe(CqrsConnection *connection);
extern void cqrs_amqp_declare(CqrsConnection *connection,
							  const char *exchange);
extern void cqrs_amqp_probe(CqrsConnection *connection,
							const CqrsEnvelope *envelope);

/* Make an event of a frame on the second channel. */
extern void cqrs_amqp_handle_probe(CqrsConnection *connection,
								   const amqp_frame_t *frame,
								   CqrsEvent *event, CqrsFailure *failure);

#endif							/* CQRS_AMQP_H */
