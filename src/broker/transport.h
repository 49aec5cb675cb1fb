/*-------------------------------------------------------------------------
 *
 * transport.h
 *	  A connection to a broker, for publishing or for consuming.
 *
 * A transport carries out and decides nothing.  The owner of the connection
 * (session.h) decides whether to try again, to wait or to log.
 *
 * A connection publishes or consumes, never both: a broker that blocks
 * publishers, as RabbitMQ does in an alarm, does not read what they send, and
 * so would not read the acknowledgements of a consumer either.
 *
 * To add a transport, implement CqrsTransport in files of its own, and add it
 * to the table in transport.c.
 *
 * A broker may refuse a route by dropping all other messages in flight with
 * it, as AMQP does by closing the channel.  So a connection can also send a
 * probe: one message at a time, whose outcome does not affect messages that
 * are published.
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

/* The arguments of connect(), which keeps no pointer to them. */
typedef struct CqrsConnectOptions
{
	const CqrsUrl *url;			/* its scheme is one of the transport's */
	const char *name;			/* shown to the operator of the broker */
	bool		consumes;		/* this connection consumes */
	const char *exchange;		/* declared when connecting; or NULL */
	const char *lease;			/* a name that only one connection can have;
								 * or NULL */
	List	   *vacant;			/* such names that no connection may have */
	int			heartbeat_s;	/* 0: none */
	int			connect_timeout_ms; /* for connecting, and for the handshake */
	int			queue_limit;	/* messages in a queue of Redis; 0: no limit */
	int			confirm_replicas;	/* of Redis, which have to have a message */
	const struct CqrsTlsOptions *tls;	/* for tls_scheme */
	Size		max_delivery;	/* a consumer's: a larger body fails the
								 * connection */
	MemoryContext deliveries;	/* a consumer's: where they are allocated; not
								 * to be reset before close() */
} CqrsConnectOptions;

/* A routing key of an exchange whose messages go to a queue. */
typedef struct CqrsBinding
{
	const char *exchange;
	const char *routing_key;
} CqrsBinding;

/* A queue that a connection consumes. */
typedef struct CqrsQueue
{
	const char *name;
	bool		quorum;			/* of the kind that is replicated */
	List	   *bindings;		/* CqrsBinding */
} CqrsQueue;

/*
 * A message from a queue: one chunk of the memory context of the options,
 * owned by the receiver of the event, who frees it.
 */
typedef struct CqrsDelivery
{
	uint64		tag;			/* for acknowledge(); 1, 2, 3, ... */
	bool		redelivered;	/* may have been delivered before */
	int64		delivery_count; /* times it was returned to the queue; 0 if
								 * the broker does not say */
	const char *routing_key;	/* bytes as they came, usually UTF-8; at most
								 * 255 */
	const char *message_id;		/* in the encoding of the database; NULL if
								 * there is none, or if it is no text without
								 * control characters */
	Size		length;
	char	   *body;			/* as it came, not checked; a zero follows */
} CqrsDelivery;

/*
 * A property of a message.  A transport sends those whose names it knows: see
 * the table of amqp_publish.c; that to Redis sends all.
 */
typedef struct CqrsProperty
{
	const char *name;
	const char *value;
} CqrsProperty;

/*
 * A message as it is sent.  Strings are UTF-8.  The body is not copied: it
 * must stay until the message is confirmed or the connection is closed.
 */
typedef struct CqrsEnvelope
{
	const char *exchange;
	const char *routing_key;
	const char *message_id;
	const CqrsProperty *properties;
	int			nproperties;
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
	CQRS_BLAME_MESSAGE,			/* the content or size of a message */
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
	CQRS_EVENT_NONE,			/* nothing has arrived */
	CQRS_EVENT_FAILED,			/* the connection is of no use any more */
	CQRS_EVENT_ACK,				/* the broker has accepted a message */
	CQRS_EVENT_NACK,			/* the broker has refused a message */
	CQRS_EVENT_RETURNED,		/* no queue for it; its ACK follows */
	CQRS_EVENT_DECLARED,		/* the exchange of a probe is there */
	CQRS_EVENT_REFUSED,			/* the probe is refused; "failure" says why */
	CQRS_EVENT_BLOCKED,			/* the broker asks to send nothing */
	CQRS_EVENT_UNBLOCKED,
	CQRS_EVENT_SUBSCRIBED,		/* deliveries follow */
	CQRS_EVENT_DELIVERY,
	CQRS_EVENT_CANCELLED		/* no delivery follows; "detail" is empty
								 * after unsubscribe(), else why the broker
								 * may have ended the subscription */
} CqrsEventKind;

typedef struct CqrsEvent
{
	CqrsEventKind kind;
	bool		probe;			/* ACK, NACK, RETURNED: for the probe; the
								 * next three fields are not set */
	uint64		tag;			/* ACK, NACK: of a message that has been sent
								 * completely */
	bool		multiple;		/* ACK, NACK: and all before it */
	char		detail[256];	/* RETURNED: message id; BLOCKED, CANCELLED:
								 * reason; NACK: reason or "" */
	CqrsDelivery *delivery;		/* DELIVERY */
} CqrsEvent;

typedef struct CqrsConnection CqrsConnection;

/*
 * None of these functions raises an error, and only those that say so wait.  A
 * wait ends soon after ShutdownRequestPending and the latch have been set, and
 * may reset the latch.
 */
typedef struct CqrsTransport
{
	const char *scheme;			/* of its URLs, in lower case */
	const char *tls_scheme;		/* the same, over TLS */
	CqrsUrl		defaults;		/* of parts that a URL leaves out; without a
								 * scheme and a password */
	int			tls_port;		/* defaults.port, over TLS */
	Size		max_body;		/* the broker refuses larger bodies */

	/*
	 * Connect, take the lease if it and all of "vacant" are free, and declare
	 * the exchange.  Waits for at most the timeouts of the options.  Returns
	 * NULL on failure.
	 */
	CqrsConnection *(*connect) (const CqrsConnectOptions *options,
								CqrsFailure *failure);

	/* For connections that publish: */

	/*
	 * Settings of the broker with which messages can be lost: a text for
	 * users, and what to do about it, in a second line.  NULL: none is known.
	 * May be NULL itself.
	 */
	const char *(*advice) (const CqrsConnection *connection);

	/*
	 * Whether there is room for another message.  If there is none, the
	 * socket gets ready when there may be.
	 */
	bool		(*can_publish) (CqrsConnection *connection);

	/*
	 * Send a message, for which there has to be room.  The first one of a
	 * connection has the tag 1, each further one the next number.  Its
	 * exchange is that of the options, or one to which a probe was taken.
	 */
	void		(*publish) (CqrsConnection *connection,
							const CqrsEnvelope *envelope);

	/* Whether a probe can begin: there is room, and no probe is in flight. */
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
	 * For all connections, as long as no probe has begun.  These functions
	 * wait for at most the timeout of the options.  Events that arrive
	 * meanwhile, deliveries for instance, are kept for poll().  They return
	 * false on failure; unless the blame is ROUTE or LEASE, the connection is
	 * of no use any more.
	 */

	/*
	 * Make a queue ready: durable, with these bindings, whose exchanges are
	 * declared; each once, if bindings of the same one follow each other.  If
	 * the queue exists with other arguments, it is used as it is.
	 */
	bool		(*prepare_queue) (CqrsConnection *connection,
								  const CqrsQueue *queue,
								  CqrsFailure *failure);

	/* Remove bindings, which may be missing; delete a queue, too. */
	bool		(*unbind) (CqrsConnection *connection, const CqrsQueue *queue,
						   CqrsFailure *failure);
	bool		(*delete_queue) (CqrsConnection *connection, const char *queue,
								 CqrsFailure *failure);

	/*
	 * A mark is a short text that the broker keeps by name, durably, until
	 * another one replaces it.  read_mark() gives "" where there is none, and
	 * is for the connection with a lease that stands for the name: while one
	 * reads, or is taken for alive after that, others may find no mark.
	 * write_mark() is for a connection that publishes, but only while another
	 * connection of this process has the lease.  It fails while the broker
	 * blocks.
	 */
	bool		(*read_mark) (CqrsConnection *connection, const char *name,
							  char *text, Size size, CqrsFailure *failure);
	bool		(*write_mark) (CqrsConnection *connection, const char *name,
							   const char *text, CqrsFailure *failure);

	/* For connections that consume: */

	/*
	 * Begin to consume a queue, for this connection alone, while no
	 * subscription is there: at first, and after CANCELLED.  SUBSCRIBED
	 * follows, or FAILED; its blame is LEASE if another connection consumes,
	 * and ROUTE if the queue is missing or not permitted.  At most "window"
	 * (1 to 65535) deliveries of the subscription are not acknowledged at any
	 * time.
	 */
	void		(*subscribe) (CqrsConnection *connection, const char *queue,
							  int window);

	/*
	 * End the subscription, after SUBSCRIBED.  CANCELLED follows, after the
	 * deliveries that were under way.  These, and all that were not
	 * acknowledged, stay with this connection, and can be acknowledged after
	 * another subscribe() too.  But a quorum queue takes back what is under
	 * way, and delivers it behind others: call this while the window is full.
	 */
	void		(*unsubscribe) (CqrsConnection *connection);

	/*
	 * Acknowledge the delivery of that tag and all before it; tags have to
	 * rise.  There is always room for this.
	 */
	void		(*acknowledge) (CqrsConnection *connection, uint64 tag);

	/* For all connections: */

	/*
	 * Go on sending, and return what has arrived: one event a call, after a
	 * bounded amount of work.  To be called when the socket is ready, and
	 * when wait_ms() has passed: for heartbeats, and for input that is left.
	 */
	void		(*poll) (CqrsConnection *connection, CqrsEvent *event,
						 CqrsFailure *failure);

	/*
	 * The socket to wait on.  *write is set if the wait is for room as well.
	 */
	pgsocket	(*socket) (CqrsConnection *connection, bool *write);

	/* Milliseconds until poll() is due, whatever the socket; -1 for never. */
	long		(*wait_ms) (CqrsConnection *connection);

	/*
	 * Close the connection and free all its memory.  With "politely",
	 * announce that to the broker first, and wait a little for its answer.
	 */
	void		(*close) (CqrsConnection *connection, bool politely);
} CqrsTransport;

extern const CqrsTransport cqrs_transport_amqp;
extern const CqrsTransport cqrs_transport_redis;	/* unless HIREDIS=0 */

/*
 * The transport of a URL, found by the URL's scheme, or NULL.  The rest of the
 * URL need not be valid.
 */
extern const CqrsTransport *cqrs_transport_of(const char *url);

/* A URL of a transport, with the defaults of what it leaves out. */
extern CqrsUrl cqrs_transport_complete(const CqrsTransport *transport,
									   const CqrsUrl *url);


/*
 * Whether a scheme has a transport.  If not, *reason is set to a full sentence
 * that names the schemes that have one.  Safe in any process at any moment.
 */
extern bool cqrs_transport_check_scheme(const char *scheme,
										const char **reason);

#endif							/* CQRS_TRANSPORT_H */
