/*-------------------------------------------------------------------------
 *
 * session.h
 *	  The connections to a broker, one after another.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_SESSION_H
#define CQRS_SESSION_H

#include "postgres.h"

#include "broker/transport.h"

#define CQRS_ADDRESS_BYTES	280

/* Read by its owner; written by session.c alone. */
typedef struct CqrsSession
{
	const char *(*read_url) (void); /* the setting; its result may be NULL */
	bool		consumes;		/* its connections consume */
	CqrsConnection *connection; /* NULL: none */
	const CqrsTransport *transport; /* of the connection; NULL before the
									 * first attempt */
	char	   *url;			/* of the connection */
	char		address[CQRS_ADDRESS_BYTES];	/* host and port of the last
												 * attempt, as text */
	char	   *exchange;		/* NULL: it consumes */
	int			queue_limit;	/* of the connection */
	int			confirm_replicas;
	int			host;			/* which host of the URL is to be tried */
	int			failures;		/* in a row */
	int			leased;			/* attempts in a row that found the lease
								 * taken */
	TimestampTz leased_at;		/* the first of these attempts */
	TimestampTz connect_at;		/* no attempt before this */
} CqrsSession;

/*
 * A session without a connection, in TopMemoryContext.  "read_url" returns the
 * URL that is set at present, or NULL.
 */
extern CqrsSession *cqrs_session_create(const char *(*read_url) (void),
										bool consumes);

/*
 * Connect to the host of the URL whose turn it is.  The caller sets the
 * options name, lease, vacant, max_delivery and deliveries; the other options
 * are taken from the settings.  There has to be a URL, and no connection.  Returns false on
 * failure; the caller then calls cqrs_session_refused() or
 * cqrs_session_put_off().
 */
extern bool cqrs_session_connect(CqrsSession *session,
								 CqrsConnectOptions *options,
								 CqrsFailure *failure);

/* Close the connection.  There has to be one. */
extern void cqrs_session_close(CqrsSession *session, bool politely);

/* Milliseconds until the next attempt to connect is due. */
extern long cqrs_session_wait_ms(const CqrsSession *session);

/* Make the next attempt due now. */
extern void cqrs_session_hurry(CqrsSession *session);

/*
 * The settings have changed: forget failures.  Returns whether the connection
 * has another URL, exchange, limit or number of
 * replicas than the settings, and should be closed.
 */
extern bool cqrs_session_reload(CqrsSession *session);

/* The work that the last failure interrupted is done: end the back-off. */
extern void cqrs_session_recover(CqrsSession *session);

/*
 * An attempt or a connection has failed: schedule the next attempt.  The delay
 * grows with each round of hosts; a failure of the transport moves on to the
 * next host.  With "resolved", the cause has been removed, and the failure is
 * not counted.
 */
extern void cqrs_session_put_off(CqrsSession *session, CqrsBlame blame,
								 bool resolved);

/*
 * Another connection has the lease: schedule the next attempt.  Returns how
 * often that has happened in a row.
 */
extern int	cqrs_session_refused(CqrsSession *session);

#endif							/* CQRS_SESSION_H */
