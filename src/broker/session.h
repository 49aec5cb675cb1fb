/*-------------------------------------------------------------------------
 *
 * session.h
 *	  The connections to the broker of cqrs.url, one after another.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_SESSION_H
#define CQRS_SESSION_H

#include "postgres.h"

#include "broker/transport.h"

/* Read by its owner; written by session.c alone. */
typedef struct CqrsSession
{
	CqrsConnection *connection; /* NULL: none */
	const CqrsTransport *transport; /* of the connection; NULL before the
									 * first attempt */
	char	   *url;			/* of the connection */
	char	   *exchange;
	int			host;			/* which host of the URL is to be tried */
	int			failures;		/* in a row */
	int			leased;			/* how often in a row another connection had
								 * the lease */
	TimestampTz leased_at;		/* the first of these times */
	TimestampTz connect_at;		/* no attempt before this */
} CqrsSession;

/* A session without a connection, in TopMemoryContext. */
extern CqrsSession *cqrs_session_create(void);

/*
 * Connect to the host of cqrs.url whose turn it is.  Of the options, the caller
 * sets name, lease and vacant; the rest is taken from the settings.  There has
 * to be a URL, and no connection.  Returns false on failure; the caller then
 * calls cqrs_session_refused() or cqrs_session_put_off().
 */
extern bool cqrs_session_connect(CqrsSession *session,
								 CqrsConnectOptions *options,
								 CqrsFailure *failure);

/* End the connection, which there has to be. */
extern void cqrs_session_close(CqrsSession *session, bool politely);

/* Milliseconds until the next attempt to connect is due. */
extern long cqrs_session_wait_ms(const CqrsSession *session);

/* The next attempt is due now. */
extern void cqrs_session_hurry(CqrsSession *session);

/*
 * The settings have changed: failures are forgotten.  Returns whether the
 * connection is to another URL or exchange, and should be closed.
 */
extern bool cqrs_session_reload(CqrsSession *session);

/* What the last failure interrupted has been done: the back-off ends. */
extern void cqrs_session_recover(CqrsSession *session);

/*
 * An attempt or a connection has failed: put the next attempt off.  The delay
 * grows with each round of hosts; a failure of the transport moves on to the
 * next host.  With "resolved", the cause has been removed, and the failure is
 * not counted.
 */
extern void cqrs_session_put_off(CqrsSession *session, CqrsBlame blame,
								 bool resolved);

/*
 * Another connection has the lease: put the next attempt off.  Returns how
 * often that has happened in a row.
 */
extern int	cqrs_session_refused(CqrsSession *session);

#endif							/* CQRS_SESSION_H */
