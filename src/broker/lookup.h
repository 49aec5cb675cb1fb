/*-------------------------------------------------------------------------
 *
 * lookup.h
 *	  Addresses of a host, without being held up by name servers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LOOKUP_H
#define CQRS_LOOKUP_H

#include "postgres.h"

#include <netdb.h>

/*
 * Resolve a host within "timeout_ms", or until the process is asked to end.
 * Returns NULL with *reason set on failure; otherwise the caller calls
 * freeaddrinfo().  May take notice of the latch.
 */
extern struct addrinfo *cqrs_lookup(const char *host, int port,
									int timeout_ms, const char **reason);

#endif							/* CQRS_LOOKUP_H */
