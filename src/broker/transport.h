/*-------------------------------------------------------------------------
 *
 * transport.h
 *	  A connection to a broker, for publishing.
 *
 * A transport carries out; it decides nothing.  Whether to try again, to wait
 * or to complain is the business of the connection's owner (session.h).
 *
 * A connection publishes, and does not consume: this interface has no
 * subscriptions.
 *
 * To add a transport: implement CqrsTransport in files of its own, and enter it
 * into the table of transport.c.
 *
 * Where a broker refuses a route by giving up all that is under way beside it,
 * as AMQP does by closing the channel, a connection has a second way, for one
 * message at a time: the probe.  What happens to a probe is of no consequence
 * for messages that are published.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_TRANSPORT_H
#define CQRS_TRANSPORT_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#include "base/url.h"

struct CqrsTlsOptions;			/* socket.h */

/* What connect() needs to know.  Nothing of it is kept. */
typedef struct CqrsConnectOptions
{
	const CqrsUrl *url;			/* its scheme is one of the transport's */
	const char *name;			/* shown to the operator of the broker */
	const char *exchange;		/* made ready at once */
	const char *lease;			/* a name that one connection can have */
	List	   *vacant;			/* such names that no connection may have */
	int			heartbeat_s;	/* 0: none */
	int			connect_timeout_ms; /* for connecting, and for the handshake */
	const struct CqrsTlsOptions *tls;	/* where the scheme asks for TLS */
} CqrsConnectOptions;

/*
 * A message as it goes out.  Strings are UTF-8.  The body is not copied: it
 * must stay until the message is confirmed or the connection closed.
 */
typedef struct CqrsEnvelope
{
	const char *exchange;
	const char *routing_key;
	const char *message_id;
	const char *correlation_id; /* or NULL */
	TimestampTz timestamp;
	const char *body;
	Size		body_length;
} CqrsEnvelope;

/* Who is to blame for a failure. */
typedef enum CqrsBlame
{
	CQRS_BLAME_TRANSPORT,		/* the network, the broker, the login */
	CQRS_BLAME_ROUTE,			/* an exchange is missing, of another type, or
								 * not permitted */
	CQRS_BLAME_MESSAGE,			/* a message is refused for what it is */
	CQRS_BLAME_LEASE			/* another connection has the lease */
} CqrsBlame;

#define CQRS_TRANSPORT_ERROR_BYTES 480

typedef struct CqrsFailure
{
	CqrsBlame	blame;
	char		reason[CQRS_TRANSPORT_ERROR_BYTES]; /* without a password */
} CqrsFailure;

typedef enum CqrsEventKind
{
	CQRS_EVENT_NONE,			/* nothing has come */
	CQRS_EVENT_FAILED,			/* the connection is of no use any more */
	CQRS_EVENT_ACK,				/* the broker has taken charge of a message */
	CQRS_EVENT_NACK,			/* it has not */
	CQRS_EVENT_RETURNED,		/* no queue for it; its ACK follows */
	CQRS_EVENT_DECLARED,		/* the exchange of a probe is there */
	CQRS_EVENT_REFUSED,			/* the probe is refused, in "failure" why */
	CQRS_EVENT_BLOCKED,			/* the broker asks to send nothing */
	CQRS_EVENT_UNBLOCKED
} CqrsEventKind;

typedef struct CqrsEvent
{
	CqrsEventKind kind;
	bool		probe;			/* ACK, NACK, RETURNED: it is the probe, and
								 * the next three say nothing */
	uint64		tag;			/* ACK, NACK: which message, of those that all
								 * has been sent of */
	bool		multiple;		/* ACK, NACK: and all before it */
	char		detail[256];	/* RETURNED: message id; BLOCKED: reason */
} CqrsEvent;

typedef struct CqrsConnection CqrsConnection;

/*
 * None of these raises an error, and those that are not said to wait do not.
 * A wait ends soon after ShutdownRequestPending has been set together with the
 * latch, and may take notice of the latch.
 */
typedef struct CqrsTransport
{
	const char *scheme;			/* of its URLs, in lower case */
	const char *tls_scheme;		/* the same, over TLS */
	Size		max_body;		/* the broker refuses larger bodies */

	/*
	 * Connect, take the lease if it and "vacant" are free, and make the
	 * exchange ready.  Waits for at most the timeouts of the options.  NULL
	 * on failure.
	 */
	CqrsConnection *(*connect) (const CqrsConnectOptions *options,
								CqrsFailure *failure);

	/* Whether there is room for another message. */
	bool		(*can_publish) (CqrsConnection *connection);

	/*
	 * Send a message, for which there has to be room.  The first one of a
	 * connection has the tag 1, each further one the next number.  Its
	 * exchange is that of the options, or one that a probe was taken at.
	 */
	void		(*publish) (CqrsConnection *connection,
							const CqrsEnvelope *envelope);

	/* Whether a probe can begin: there is room, and the last one has ended. */
	bool		(*can_probe) (CqrsConnection *connection);

	/*
	 * Begin a probe: declare its exchange.  DECLARED follows, or REFUSED,
	 * which ends the probe.
	 */
	void		(*declare) (CqrsConnection *connection, const char *exchange);

	/*
	 * Send the message of a probe, after DECLARED and when there is room for
	 * a message.  ACK, NACK or REFUSED ends the probe.
	 */
	void		(*probe) (CqrsConnection *connection,
						  const CqrsEnvelope *envelope);

	/*
	 * Go on sending, and see what has come: one event a call, after a bounded
	 * amount of work.  Has to be called when the socket is ready, and when
	 * wait_ms() says so: for heartbeats, and for what has not been seen yet.
	 */
	void		(*poll) (CqrsConnection *connection, CqrsEvent *event,
						 CqrsFailure *failure);

	/* The socket, to wait on, and whether for room to write as well. */
	pgsocket	(*socket) (CqrsConnection *connection, bool *write);

	/* Milliseconds until poll() is due, whatever the socket; -1 for never. */
	long		(*wait_ms) (CqrsConnection *connection);

	/*
	 * Give the connection and all its memory back, after telling the broker
	 * so with "politely", which waits a little for its answer.
	 */
	void		(*close) (CqrsConnection *connection, bool politely);
} CqrsTransport;

extern const CqrsTransport cqrs_transport_amqp;

/*
 * The transport of a URL, which need not be valid otherwise, by its scheme;
 * NULL when there is none.
 */
extern const CqrsTransport *cqrs_transport_of(const char *url);

/*
 * Whether a scheme has a transport; if not, *reason is a full sentence that
 * names those that have one.  Safe in any process at any moment.
 */
extern bool cqrs_transport_check_scheme(const char *scheme,
										const char **reason);

#endif							/* CQRS_TRANSPORT_H */
