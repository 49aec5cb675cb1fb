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
 * Strings are UTF-8; they point into the buffer that was parsed, or to
 * constants.
 */
typedef struct CqrsUrl
{
	const char *scheme;
	const char *user;			/* NULL: none, where the scheme has no default */
	const char *password;		/* the same */
	const char *host;
	int			port;			/* 0: none, the same */
	const char *path;			/* without the slash before it; of AMQP, the
								 * virtual host */
	bool		tls;
} CqrsUrl;

/* How many hosts a URL names: amqp://user:password@host:port,host:port/vhost */
extern int	cqrs_url_hosts(const char *url);

/*
 * Parse "buffer", which is taken to pieces in place, into *url, with the host
 * of the given number, from 0.  Any scheme is accepted.  The defaults of amqp
 * and amqps are those of the AMQP URI specification as RabbitMQ's clients have
 * them: user and password guest, host localhost, port 5672 or with TLS 5671,
 * virtual host "/".  On failure returns false with *reason a full sentence
 * that quotes no part of the URL, since any part may be the password.
 */
extern bool cqrs_url_parse(char *buffer, int host, CqrsUrl *url,
						   const char **reason);

/* A palloc'd copy of "url" whose password is replaced by asterisks. */
extern char *cqrs_url_mask(const char *url);

#endif							/* CQRS_URL_H */
