/*-------------------------------------------------------------------------
 *
 * url.h
 *	  The address of a broker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_URL_H
#define CQRS_URL_H

#include "postgres.h"

/*
 * Strings are UTF-8, and point into the buffer that was parsed.  A part that
 * the URL leaves out, or leaves empty in the case of host and path, is NULL or
 * 0: its default depends on the scheme.
 */
typedef struct CqrsUrl
{
	const char *scheme;			/* in lower case */
	const char *user;
	const char *password;
	const char *host;
	int			port;
	const char *path;			/* without the slash before it */
} CqrsUrl;

/* How many hosts a URL names: amqp://user:password@host:port,host:port/vhost */
extern int	cqrs_url_hosts(const char *url);

/*
 * Parse "buffer" in place into *url, with the host of the given number, from
 * 0.  Any scheme is accepted.  On failure returns false with *reason a full
 * sentence that quotes no part of the URL, since any part may be the password.
 */
extern bool cqrs_url_parse(char *buffer, int host, CqrsUrl *url,
						   const char **reason);

/*
 * The part of a URL that says which broker it is: its hosts and its path, as
 * they are written, without user and password.  Points into the URL.
 */
extern const char *cqrs_url_address(const char *url);

/* A palloc'd copy of "url" whose password is replaced by asterisks. */
extern char *cqrs_url_mask(const char *url);

#endif							/* CQRS_URL_H */
