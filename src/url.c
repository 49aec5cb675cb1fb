/*-------------------------------------------------------------------------
 *
 * url.c
 *	  The address of a broker: parsing, and showing it without its password.
 *
 * Called by the settings (any process, any moment, the postmaster included)
 * and by the publisher.  Nothing here raises an error, and only
 * cqrs_url_mask() allocates.  The grammar is librabbitmq's amqp_parse_url(),
 * with a list of hosts added; what it lumps together or lets pass is told
 * apart here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "rabbitmq.h"
#include "url.h"

#define CQRS_URL_MAX_BYTES	2048

static const char *find_hosts(const char *url, const char **end);
static bool keep_host(char *url, int host);

int
cqrs_url_hosts(const char *url)
{
	const char *end;
	const char *hosts = find_hosts(url, &end);
	int			count = 1;

	for (; hosts < end; hosts++)
		count += *hosts == ',';
	return count;
}

bool
cqrs_url_parse(char *buffer, int host, CqrsUrl *url, const char **reason)
{
	struct amqp_connection_info info;

	if (strlen(buffer) > CQRS_URL_MAX_BYTES)
	{
		*reason = "The URL is longer than 2048 bytes.";
		return false;
	}
	if (strncmp(buffer, "amqp://", 7) != 0 &&
		strncmp(buffer, "amqps://", 8) != 0)
	{
		*reason = "The URL must start with \"amqp://\" or \"amqps://\".";
		return false;
	}
	if (strpbrk(buffer, "?# \t\r\n") != NULL)
	{
		*reason = "Blanks, \"?\" and \"#\" must be percent-encoded; parameters after \"?\" are not supported.";
		return false;
	}
	if (!keep_host(buffer, host))
	{
		*reason = "One of the hosts is empty.";
		return false;
	}
	if (amqp_parse_url(buffer, &info) != AMQP_STATUS_OK)
	{
		*reason = "The URL must have the form amqp://user:password@host:port/vhost, with a port from 1 to 65535, several hosts separated by commas, and special characters percent-encoded.";
		return false;
	}
	if (info.port < 1)
	{
		*reason = "The port must be from 1 to 65535.";
		return false;
	}

	url->user = info.user;
	url->password = info.password;
	url->host = info.host;
	url->port = info.port;
	url->vhost = info.vhost[0] != '\0' ? info.vhost : "/";
	url->tls = info.ssl;
	return true;
}

char *
cqrs_url_mask(const char *url)
{
	const char *userinfo = strstr(url, "://");
	const char *at;
	const char *colon;

	if (userinfo == NULL)
		return pstrdup(url);
	userinfo += 3;

	at = strchr(userinfo, '@');
	if (at == NULL)
		return pstrdup(url);
	colon = memchr(userinfo, ':', at - userinfo);
	if (colon == NULL)
		return pstrdup(url);

	return psprintf("%.*s:***%s", (int) (colon - url), url, at);
}

/* Where the hosts begin and end, after user and password. */
static const char *
find_hosts(const char *url, const char **end)
{
	const char *scheme = strstr(url, "://");
	const char *hosts = scheme != NULL ? scheme + 3 : url;
	const char *at = strchr(hosts, '@');

	if (at != NULL)
		hosts = at + 1;
	*end = hosts + strcspn(hosts, "/");
	return hosts;
}

/* Take all hosts but one out of a URL; false when it is empty. */
static bool
keep_host(char *url, int host)
{
	const char *end;
	char	   *first = unconstify(char *, find_hosts(url, &end));
	const char *kept = first;
	bool		several = cqrs_url_hosts(url) > 1;
	Size		length;

	for (; host > 0; host--)
		kept += strcspn(kept, ",/") + 1;
	length = strcspn(kept, ",/");
	if (several && length == 0)
		return false;
	memmove(first, kept, length);
	memmove(first + length, end, strlen(end) + 1);
	return true;
}
