/*-------------------------------------------------------------------------
 *
 * lookup.h
 *	  Lookup of a host's addresses, without blocking on name servers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LOOKUP_H
#define CQRS_LOOKUP_H

#include "postgres.h"

#include <netdb.h>

/*
 * Look up a host within "timeout_ms", or until the process is asked to end.
 * On failure returns NULL and sets *reason; otherwise the caller has to call
 * freeaddrinfo().  May reset the latch.
 */
extern struct addrinfo *cqrs_lookup(const char *host, int port,
									int timeout_ms, const char **reason);

#endif							/* CQRS_LOOKUP_H */
