/*-------------------------------------------------------------------------
 *
 * url.c
 *	  The address of a broker: parsing, and showing it without its password.
 *
 * Called by the settings (any process, any moment, the postmaster included)
 * and by the publisher.  Nothing here raises an error, and only
 * cqrs_url_mask() allocates.
 *
 * Any scheme is parsed.  broker/transport.h knows which schemes have a
 * transport, and each transport knows the default of a part that is left out.
 * The grammar is that of RFC 3986 for the parts that CqrsUrl has, with a list
 * of hosts.  The delimiters :@/[] are only accepted as such, so that a
 * password with an unencoded one is refused, and not cut in two.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "base/url.h"

#define CQRS_URL_MAX_BYTES	2048

#define SCHEME_CHARACTERS	"abcdefghijklmnopqrstuvwxyz0123456789+-."
/* The separators of the parts; inside a part they are percent-encoded. */
#define DELIMITERS			":@/[]"

#define REASON_FORM \
	"The URL must have the form amqp://user:password@host:port/vhost, with several hosts separated by commas, and special characters percent-encoded."

static bool parse_authority(char *authority, CqrsUrl *url,
							const char **reason);
static bool parse_host(char *host, CqrsUrl *url, const char **reason);
static bool parse_port(const char *text, int *port);
static bool decode(char *text, const char **reason);
static int	hex_value(char digit);
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
	char	   *authority;
	char	   *path;

	if (strlen(buffer) > CQRS_URL_MAX_BYTES)
	{
		*reason = "The URL is longer than 2048 bytes.";
		return false;
	}
	authority = buffer + strspn(buffer, SCHEME_CHARACTERS);
	if (authority == buffer || strncmp(authority, "://", 3) != 0)
	{
		*reason = "The URL must start with a scheme, such as \"amqp://\".";
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
	*authority = '\0';
	authority += 3;
	*url = (CqrsUrl)
	{
		.scheme = buffer
	};

	path = strchr(authority, '/');
	if (path != NULL)
	{
		*path++ = '\0';
		if (!decode(path, reason))
			return false;
		if (path[0] != '\0')
			url->path = path;
	}
	return parse_authority(authority, url, reason);
}

const char *
cqrs_url_address(const char *url)
{
	const char *end;

	return find_hosts(url, &end);
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

/* Parse user:password@host:port, of which each part may be missing. */
static bool
parse_authority(char *authority, CqrsUrl *url, const char **reason)
{
	char	   *host = strchr(authority, '@');

	if (host == NULL)
		return parse_host(authority, url, reason);
	else
	{
		char	   *password = memchr(authority, ':', host - authority);

		*host++ = '\0';
		if (password != NULL)
		{
			*password++ = '\0';
			if (!decode(password, reason))
				return false;
			url->password = password;
		}
		if (!decode(authority, reason))
			return false;
		url->user = authority;
		return parse_host(host, url, reason);
	}
}

/* Parse host:port or [address]:port. */
static bool
parse_host(char *host, CqrsUrl *url, const char **reason)
{
	char	   *port;

	if (host[0] == '[')
	{
		port = strchr(++host, ']');
		if (port == NULL || strpbrk(host, "[@/%") != NULL ||
			(port[1] != ':' && port[1] != '\0'))
		{
			*reason = REASON_FORM;
			return false;
		}
		*port++ = '\0';
		url->host = host;
		port = port[0] == ':' ? port + 1 : NULL;
	}
	else
	{
		port = strchr(host, ':');
		if (port != NULL)
			*port++ = '\0';
		if (!decode(host, reason))
			return false;
		if (host[0] != '\0')
			url->host = host;
	}
	if (port != NULL && !parse_port(port, &url->port))
	{
		*reason = "The port must be from 1 to 65535.";
		return false;
	}
	return true;
}

/* Returns false for anything but a number from 1 to 65535. */
static bool
parse_port(const char *text, int *port)
{
	if (strspn(text, "0123456789") != strlen(text) || strlen(text) > 5)
		return false;
	*port = atoi(text);
	return *port >= 1 && *port <= 65535;
}

/*
 * Decode a part in place.  Refuses a zero byte, and bytes that are not UTF-8,
 * which brokers expect of text.
 */
static bool
decode(char *text, const char **reason)
{
	char	   *out = text;
	char	   *start = text;

	if (strpbrk(text, DELIMITERS) != NULL)
	{
		*reason = REASON_FORM;
		return false;
	}
	for (; *text != '\0'; text++)
	{
		if (*text == '%')
		{
			int			high = hex_value(text[1]);
			int			low = high < 0 ? -1 : hex_value(text[2]);

			if (low < 0)
			{
				*reason = "In the URL, \"%\" must be followed by two hexadecimal digits.";
				return false;
			}
			if (high == 0 && low == 0)
			{
				*reason = "The URL must not contain a zero byte (\"%00\").";
				return false;
			}
			*out++ = (char) (high << 4 | low);
			text += 2;
		}
		else
			*out++ = *text;
	}
	*out = '\0';
	if (pg_encoding_verifymbstr(PG_UTF8, start, out - start) != out - start)
	{
		*reason = "The URL is not valid UTF-8 after percent-decoding.";
		return false;
	}
	return true;
}

/* The value of a hexadecimal digit, -1 for any other character. */
static int
hex_value(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	digit = pg_ascii_tolower(digit);
	if (digit >= 'a' && digit <= 'f')
		return digit - 'a' + 10;
	return -1;
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
