/*-------------------------------------------------------------------------
 *
 * amqp.h
 *	  Declarations that the parts of the transport by AMQP share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_AMQP_H
#define CQRS_AMQP_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "broker/amqp_frames.h"
#include "broker/failure.h"
#include "broker/transport.h"

#define CQRS_AMQP_CHANNEL	1
/* For what the broker may refuse by closing the channel. */
#define CQRS_AMQP_SIDE_CHANNEL	2
/* For the lease, where it is a token. */
#define CQRS_AMQP_LEASE_CHANNEL 3

/* The second channel while it is for probes (amqp_probe.c). */
typedef enum CqrsProbeState
{
	CQRS_PROBE_CLOSED,			/* the channel is not open */
	CQRS_PROBE_IDLE,			/* the channel is open */
	CQRS_PROBE_DECLARING,		/* open, or being opened; declare-ok is
								 * awaited */
	CQRS_PROBE_DECLARED,		/* the message may be sent */
	CQRS_PROBE_SENT,			/* the message's confirm is awaited */
	CQRS_PROBE_CLOSING,			/* close-ok is awaited */
	CQRS_PROBE_CROSSING			/* the same, and the broker has closed the
								 * channel at the same time */
} CqrsProbeState;

typedef enum CqrsReturn
{
	CQRS_RETURN_NONE,			/* no message is being returned */
	CQRS_RETURN_HEADER,			/* the content header is next */
	CQRS_RETURN_BODY			/* the body, or more of it, is next */
} CqrsReturn;

typedef struct CqrsConsumer CqrsConsumer;	/* amqp_consume.c */
typedef struct CqrsAmqpToken CqrsAmqpToken; /* amqp_token.c */

struct CqrsConnection
{
	CqrsFrames *frames;
	MemoryContext context;		/* of this and all that belongs to it */
	int			declaring;		/* exchanges being declared on the first
								 * channel */
	uint64		published;		/* messages sent there, so the last tag */
	bool		more;			/* poll() has left input unread */
	int			heartbeat_s;	/* as agreed, 0: none */
	int			timeout_ms;		/* of whatever waits */
	int64		deadline;		/* of the present wait */
	List	   *kept;			/* CqrsEvent: arrived while something else was
								 * awaited */
	int			kept_others;	/* among them, those that are no deliveries */
	CqrsFailure lost;			/* of the FAILED one among them */
	bool		limits_deliveries;	/* the broker's quorum queues do, unless
									 * told otherwise */
	bool		has_tokens;		/* a lease is a token, not an exclusive queue */
	bool		blocked;		/* the broker does not read what we send */

	CqrsReturn	returning;		/* the next frame of a returned message */
	uint64		return_rest;	/* bytes of its body that are awaited */
	char		return_id[256]; /* its message id */

	CqrsProbeState probe;
	bool		side_open;		/* the second channel, not for probes */
	int			side_code;		/* why the broker has closed it last */

	CqrsConsumer *consumer;		/* NULL: the connection publishes */
	CqrsAmqpToken *token;		/* NULL: no lease, or an exclusive queue */
};

/* in amqp_handshake.c */

/*
 * Log in, take the lease, and open the first channel with all that belongs to
 * it: the exchange, confirm mode.  These functions wait until the connection's
 * deadline.
 */
extern bool cqrs_amqp_log_in(CqrsConnection *connection,
							 const CqrsConnectOptions *options,
							 CqrsFailure *failure);
extern bool cqrs_amqp_set_up(CqrsConnection *connection,
							 const CqrsConnectOptions *options,
							 CqrsFailure *failure);
extern bool cqrs_amqp_open_channel(CqrsConnection *connection, int channel,
								   CqrsFailure *failure);

#define CQRS_AMQP_ANY_FRAME	0

/*
 * Send the output, and wait for a method, or for CQRS_AMQP_ANY_FRAME, which is
 * then in *frame.  Events that arrive meanwhile are kept for poll().  A wait
 * on the second channel ends also when the broker closes the channel.  A wait
 * on that one or on the third one ends when the broker blocks the connection:
 * then the broker does not read acknowledgements, either.
 */
extern bool cqrs_amqp_await(CqrsConnection *connection, int channel,
							amqp_method_number_t expected, const char *action,
							amqp_frame_t *frame, CqrsFailure *failure);

/* in amqp.c */

/* Put the declaration of a durable topic exchange into the output. */
extern void cqrs_amqp_declare_exchange(CqrsConnection *connection,
									   int channel, const char *exchange);

/* Whether a frame is on the channel that frames of its kind belong to. */
extern bool cqrs_amqp_is_channel_right(const amqp_frame_t *frame);

/*
 * Make an event of a frame from the broker.  If the broker has no reason to
 * send such a frame now, the event is FAILED and "failure" is filled in.  The
 * text of the failure begins with "action", for example "could not publish".
 */
extern void cqrs_amqp_handle_frame(CqrsConnection *connection,
								   const amqp_frame_t *frame,
								   const char *action, CqrsEvent *event,
								   CqrsFailure *failure);

/* Put the broker's own words into "failure". */
extern void cqrs_amqp_describe_close(CqrsFailure *failure, const char *action,
									 const amqp_method_t *method);

/* Fill in a failure of the broker's, a frame that must not come now. */
extern void cqrs_amqp_violated(CqrsEvent *event, CqrsFailure *failure,
							   const char *action, const char *what);

/*
 * Keep an event for poll(); "failure" is that of a FAILED one.  If there are
 * too many, the event becomes a FAILED one.
 */
extern void cqrs_amqp_keep(CqrsConnection *connection, CqrsEvent *event,
						   const char *action, CqrsFailure *failure);

/* in amqp_publish.c */

/* As in transport.h; cqrs_amqp_can_publish() for any output. */
extern bool cqrs_amqp_can_publish(CqrsConnection *connection);
extern void cqrs_amqp_publish(CqrsConnection *connection,
							  const CqrsEnvelope *envelope);

/* Put a message into the output, which has room. */
extern void cqrs_amqp_put_message(CqrsConnection *connection, int channel,
								  const CqrsEnvelope *envelope);

/* Make an event of a frame on the first channel of one that publishes. */
extern void cqrs_amqp_handle_published(CqrsConnection *connection,
									   const amqp_frame_t *frame,
									   const char *action, CqrsEvent *event,
									   CqrsFailure *failure);

/* in amqp_consume.c */

/* As in transport.h. */
extern void cqrs_amqp_subscribe(CqrsConnection *connection, const char *queue,
								int window);
extern void cqrs_amqp_unsubscribe(CqrsConnection *connection);
extern void cqrs_amqp_acknowledge(CqrsConnection *connection, uint64 tag);

/* Make a connection one that consumes. */
extern void cqrs_amqp_create_consumer(CqrsConnection *connection,
									  const CqrsConnectOptions *options);

/* Put the acknowledgement that waits for room into the output. */
extern void cqrs_amqp_put_acknowledgement(CqrsConnection *connection);

/* Make an event of a frame on the first channel of one that consumes. */
extern void cqrs_amqp_handle_consumed(CqrsConnection *connection,
									  const amqp_frame_t *frame,
									  const char *action, CqrsEvent *event,
									  CqrsFailure *failure);

/*
 * Free the deliveries that poll() has not given to its caller: those in events
 * that are kept, and the one whose body has not arrived completely.
 */
extern void cqrs_amqp_free_deliveries(CqrsConnection *connection);

/* in amqp_side.c */

/* Arguments of a declaration; all zero at first. */
typedef struct CqrsArguments
{
	int			count;
	amqp_table_entry_t entries[6];
} CqrsArguments;

extern void cqrs_amqp_add_number(CqrsArguments *arguments, const char *key,
								 int value);
extern void cqrs_amqp_add_text(CqrsArguments *arguments, const char *key,
							   const char *value);
extern void cqrs_amqp_add_true(CqrsArguments *arguments, const char *key);

/* As a table, which points into "arguments". */
extern amqp_table_t cqrs_amqp_table(CqrsArguments *arguments);

/* As in transport.h. */
extern bool cqrs_amqp_prepare_queue(CqrsConnection *connection,
									const CqrsQueue *queue,
									CqrsFailure *failure);
extern bool cqrs_amqp_unbind(CqrsConnection *connection,
							 const CqrsQueue *queue, CqrsFailure *failure);
extern bool cqrs_amqp_delete_queue(CqrsConnection *connection,
								   const char *queue, CqrsFailure *failure);

/*
 * Open the second channel for requests, within a new deadline, and close it.
 * Closing succeeds if the broker has closed the channel already.
 */
extern bool cqrs_amqp_open_side(CqrsConnection *connection,
								CqrsFailure *failure);
extern bool cqrs_amqp_close_side(CqrsConnection *connection,
								 CqrsFailure *failure);

/*
 * Declare a durable queue with these arguments on the second channel; one that
 * exists with other arguments is used as it is.
 */
extern bool cqrs_amqp_declare_queue(CqrsConnection *connection,
									const char *name,
									CqrsArguments *arguments,
									const char *action, CqrsFailure *failure);

/*
 * Whether a frame closes the second channel, which is open for requests.  If
 * so, it is answered, and "failure" is filled in.
 */
extern bool cqrs_amqp_side_closed(CqrsConnection *connection,
								  const amqp_frame_t *frame,
								  const char *action, CqrsFailure *failure);

/* What could not be done, for failures. */
#define CQRS_AMQP_TAKING	"could not take the lease"
#define CQRS_AMQP_TAKING_ALL "could not take the lease of all lanes"

/* in amqp_lease.c */

/*
 * Take a lease, while none of the leases "vacant" is taken.  Waits within the
 * connection's deadline.
 */
extern bool cqrs_amqp_take_lease(CqrsConnection *connection, const char *name,
								 List *vacant, CqrsFailure *failure);

/* in amqp_token.c */

/*
 * The same, where the lease is a token.  The leases that have no such queue stay
 * in *vacant.
 */
extern bool cqrs_amqp_take_token(CqrsConnection *connection, const char *name,
								 List **vacant, CqrsFailure *failure);

/*
 * Do what is due to keep a lease that is a token.  The event is FAILED if the
 * lease is lost.
 */
extern void cqrs_amqp_keep_token(CqrsConnection *connection, CqrsEvent *event,
								 CqrsFailure *failure);

/* Milliseconds until that is due, whatever arrives; -1 for never. */
extern long cqrs_amqp_token_wait_ms(const CqrsConnection *connection);

/* Make an event of a frame on the channel of the lease. */
extern void cqrs_amqp_handle_token(CqrsConnection *connection,
								   const amqp_frame_t *frame,
								   const char *action, CqrsEvent *event,
								   CqrsFailure *failure);

/* in amqp_mark.c */

/* As in transport.h. */
extern bool cqrs_amqp_read_mark(CqrsConnection *connection, const char *name,
								char *text, Size size, CqrsFailure *failure);
extern bool cqrs_amqp_write_mark(CqrsConnection *connection, const char *name,
								 const char *text, CqrsFailure *failure);

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
