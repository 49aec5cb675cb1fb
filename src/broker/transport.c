/*-------------------------------------------------------------------------
 *
 * transport.c
 *	  The table of transports.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "broker/transport.h"

static const CqrsTransport *const transports[] = {
	&cqrs_transport_amqp,
#ifdef CQRS_WITH_REDIS
	&cqrs_transport_redis,
#endif
};

/* Names all schemes of the table. */
#ifdef CQRS_WITH_REDIS
#define REASON_SCHEME \
	"The URL must start with \"amqp://\", \"amqps://\", \"redis://\" or \"rediss://\"."
#else
#define REASON_SCHEME \
	"The URL must start with \"amqp://\" or \"amqps://\"; this library was built without support for Redis."
#endif

static const CqrsTransport *find(const char *scheme, Size length);
static bool is_scheme(const char *name, const char *scheme, Size length);

const CqrsTransport *
cqrs_transport_of(const char *url)
{
	const char *end = strstr(url, "://");

	return end != NULL ? find(url, end - url) : NULL;
}

CqrsUrl
cqrs_transport_complete(const CqrsTransport *transport, const CqrsUrl *url)
{
	CqrsUrl		whole = *url;
	bool		tls = strcmp(url->scheme, transport->tls_scheme) == 0;

	if (whole.user == NULL || whole.user[0] == '\0')
		whole.user = transport->defaults.user;
	if (whole.host == NULL)
		whole.host = transport->defaults.host;
	if (whole.port == 0)
		whole.port = tls ? transport->tls_port : transport->defaults.port;
	if (whole.path == NULL)
		whole.path = transport->defaults.path;
	return whole;
}

bool
cqrs_transport_check_scheme(const char *scheme, const char **reason)
{
	if (find(scheme, strlen(scheme)) != NULL)
		return true;
	*reason = REASON_SCHEME;
	return false;
}

/* The transport of a scheme of "length" bytes, or NULL. */
static const CqrsTransport *
find(const char *scheme, Size length)
{
	for (int i = 0; i < lengthof(transports); i++)
	{
		if (is_scheme(transports[i]->scheme, scheme, length) ||
			is_scheme(transports[i]->tls_scheme, scheme, length))
			return transports[i];
	}
	return NULL;
}

static bool
is_scheme(const char *name, const char *scheme, Size length)
{
	return strlen(name) == length && memcmp(name, scheme, length) == 0;
}
