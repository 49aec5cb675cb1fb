/*-------------------------------------------------------------------------
 *
 * session.c
 *	  The connections to a broker, one after another.
 *
 * A session knows which host is tried next, and when.  Its owner sends,
 * receives and logs, and decides whether a connection is wanted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/guc.h"
#include "base/timing.h"
#include "base/url.h"
#include "broker/failure.h"
#include "broker/password.h"
#include "broker/session.h"
#include "broker/socket.h"

/* The longest delay between attempts to take a lease that is not free. */
#define LEASE_INTERVAL_MS	2000

static void set_address(CqrsSession *session, const CqrsUrl *url);
static CqrsConnection *connect_to(CqrsSession *session, const char *url,
								  CqrsConnectOptions *options,
								  CqrsFailure *failure);

CqrsSession *
cqrs_session_create(const char *(*read_url) (void), bool consumes)
{
	CqrsSession *session = MemoryContextAllocZero(TopMemoryContext,
												  sizeof(CqrsSession));

	session->read_url = read_url;
	session->consumes = consumes;
	return session;
}

bool
cqrs_session_connect(CqrsSession *session, CqrsConnectOptions *options,
					 CqrsFailure *failure)
{
	const char *url = session->read_url();

	Assert(session->connection == NULL);	/* I13 */
	session->transport = cqrs_transport_of(url);
	session->connection = connect_to(session, url, options, failure);
	if (session->connection == NULL)
		return false;
	session->url = MemoryContextStrdup(TopMemoryContext, url);
	if (!session->consumes)
		session->exchange = MemoryContextStrdup(TopMemoryContext,
												cqrs_exchange);
	session->leased = 0;
	return true;
}

void
cqrs_session_close(CqrsSession *session, bool politely)
{
	session->transport->close(session->connection, politely);
	session->connection = NULL;
	explicit_bzero(session->url, strlen(session->url));
	pfree(session->url);
	if (session->exchange != NULL)
		pfree(session->exchange);
	session->exchange = NULL;
}

long
cqrs_session_wait_ms(const CqrsSession *session)
{
	return cqrs_until_within_ms(session->connect_at,
								Max(cqrs_reconnect_delay_max_ms, LEASE_INTERVAL_MS));
}

void
cqrs_session_hurry(CqrsSession *session)
{
	session->connect_at = 0;
}

bool
cqrs_session_reload(CqrsSession *session)
{
	const char *url = session->read_url();

	session->connect_at = 0;
	session->failures = 0;
	return session->connection != NULL &&
		(url == NULL || strcmp(url, session->url) != 0 ||
		 (session->exchange != NULL &&
		  (strcmp(cqrs_exchange, session->exchange) != 0 ||
		   session->queue_limit != cqrs_queue_limit ||
		   session->confirm_replicas != cqrs_confirm_replicas)));
}

void
cqrs_session_recover(CqrsSession *session)
{
	session->failures = 0;
}

void
cqrs_session_put_off(CqrsSession *session, CqrsBlame blame, bool resolved)
{
	const char *url = session->read_url();
	int			nhosts = url != NULL ? cqrs_url_hosts(url) : 1;

	session->leased = 0;
	if (resolved)
		session->failures = 0;
	session->connect_at =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									cqrs_backoff_ms(session->failures / nhosts));
	if (!resolved)
		session->failures++;
	if (blame == CQRS_BLAME_TRANSPORT)
		session->host = (session->host + 1) % nhosts;
}

/*
 * The broker may not have noticed yet that our last connection is gone.  The
 * broker notices that after a moment, or after two heartbeat intervals if the
 * network was cut.  So attempts go on soon.
 */
int
cqrs_session_refused(CqrsSession *session)
{
	int64		delay_ms = cqrs_backoff_ms(session->leased);

	if (session->leased++ == 0)
		session->leased_at = GetCurrentTimestamp();
	session->connect_at =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									Min(delay_ms, LEASE_INTERVAL_MS));
	return session->leased;
}

/* Host and port, in the encoding of the database. */
static void
set_address(CqrsSession *session, const CqrsUrl *url)
{
	CqrsUrl		whole = cqrs_transport_complete(session->transport, url);
	char		host[256];

	cqrs_failure_clean(host, sizeof(host), whole.host, strlen(whole.host));
	snprintf(session->address, sizeof(session->address),
			 strchr(host, ':') != NULL ? "[%s]:%d" : "%s:%d", host,
			 whole.port);
}

/*
 * Connect to the host of the URL whose turn it is.  Returns NULL on failure.
 */
static CqrsConnection *
connect_to(CqrsSession *session, const char *url, CqrsConnectOptions *options,
		   CqrsFailure *failure)
{
	CqrsTlsOptions tls = {
		.ca_file = cqrs_ssl_ca_file,
		.cert_file = cqrs_ssl_cert_file,
		.key_file = cqrs_ssl_key_file,
		.verify = cqrs_ssl_verify
	};
	CqrsUrl		parsed;
	CqrsConnection *connection = NULL;
	char	   *buffer = pstrdup(url);
	char	   *password = NULL;
	const char *reason;

	options->url = &parsed;
	options->consumes = session->consumes;
	options->exchange = session->consumes ? NULL : cqrs_exchange;
	options->heartbeat_s = cqrs_heartbeat_s;
	options->connect_timeout_ms = cqrs_connect_timeout_ms;
	options->queue_limit = session->queue_limit = cqrs_queue_limit;
	options->confirm_replicas = session->confirm_replicas =
		cqrs_confirm_replicas;
	options->tls = &tls;
	if (cqrs_url_parse(buffer, session->host % cqrs_url_hosts(url), &parsed,
					   &reason))
	{
		set_address(session, &parsed);
		if (cqrs_password_find(session->transport, &parsed, &password, failure))
		{
			if (password != NULL)
				parsed.password = password;
			connection = session->transport->connect(options, failure);
		}
	}
	else
	{
		failure->blame = CQRS_BLAME_TRANSPORT;
		snprintf(failure->reason, sizeof(failure->reason), "invalid URL: %s",
				 reason);
	}
	if (password != NULL)
	{
		explicit_bzero(password, strlen(password));
		pfree(password);
	}
	/* The buffer may contain a password. */
	explicit_bzero(buffer, strlen(url));
	pfree(buffer);
	return connection;
}
