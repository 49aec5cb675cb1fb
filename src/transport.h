/*-------------------------------------------------------------------------
 *
 * transport.h
 *	  The way to a broker, as the publisher sees it.
 *
 * A transport carries out; it decides nothing.  Whether to try again, to wait
 * or to complain is the publisher's business.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_TRANSPORT_H
#define CQRS_TRANSPORT_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* What a connection needs to know.  Strings are not kept. */
typedef struct CqrsConnectOptions
{
	const char *url;
	const char *exchange;
	int			heartbeat_s;	/* 0: none */
	int			connect_timeout_ms; /* for connecting, and for the handshake */
} CqrsConnectOptions;

/* A message as it goes out.  Strings are UTF-8. */
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

typedef enum CqrsEventKind
{
	CQRS_EVENT_NONE,			/* nothing has come */
	CQRS_EVENT_FAILED,			/* the connection is of no use any more */
	CQRS_EVENT_ACK,				/* the broker has taken charge of a message */
	CQRS_EVENT_NACK,			/* it has not */
	CQRS_EVENT_RETURNED,		/* no queue for it; its ACK follows */
	CQRS_EVENT_BLOCKED,			/* the broker asks to send nothing */
	CQRS_EVENT_UNBLOCKED
} CqrsEventKind;

typedef struct CqrsEvent
{
	CqrsEventKind kind;
	uint64		tag;			/* ACK, NACK: which message */
	bool		multiple;		/* ACK, NACK: and all before it */
	char text[	256];			/* RETURNED: routing key; BLOCKED: reason */
} CqrsEvent;

typedef struct CqrsConnection CqrsConnection;

#define CQRS_TRANSPORT_ERROR_BYTES 400

/*
 * Functions that fail leave a message for people in "error", a buffer of
 * CQRS_TRANSPORT_ERROR_BYTES that holds no password.  None of them raises an
 * error or waits longer than said.
 */
typedef struct CqrsTransport
{
	/*
	 * Connect, and make the exchange ready.  Waits for at most the timeouts
	 * of the options, less when interrupt() is called.  NULL on failure.
	 */
	CqrsConnection *(*connect) (const CqrsConnectOptions *options,
								char *error);

	/*
	 * Send a message.  The first one of a connection has the tag 1, each
	 * further one the next number.  May wait for as long as the broker does
	 * not read; interrupt() ends that.  False when the connection has failed.
	 */
	bool		(*publish) (CqrsConnection *connection,
							const CqrsEnvelope *envelope, char *error);

	/*
	 * What has come from the broker: one event a call, without waiting.  Has
	 * to be called often enough for heartbeats to be sent and noticed.
	 */
	void		(*poll) (CqrsConnection *connection, CqrsEvent *event,
						 char *error);

	/* The socket, to wait on for something to poll. */
	pgsocket	(*socket) (CqrsConnection *connection);

	/*
	 * Give the connection and all its memory back, after telling the broker
	 * so with "politely", which waits for an answer.
	 */
	void		(*close) (CqrsConnection *connection, bool politely);

	/*
	 * Make whatever of the above waits fail soon; what does not wait goes on.
	 * For the handler of the signal that sets ShutdownRequestPending.
	 */
	void		(*interrupt) (void);
} CqrsTransport;

extern const CqrsTransport cqrs_transport_amqp;

#endif							/* CQRS_TRANSPORT_H */
