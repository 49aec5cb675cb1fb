/*-------------------------------------------------------------------------
 *
 * exchange.h
 *	  Names of exchanges.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_EXCHANGE_H
#define CQRS_EXCHANGE_H

#include "postgres.h"

/* The exchange of leases, where they are messages (broker/amqp_token.c). */
#define CQRS_LEASE_EXCHANGE	"cqrs.lease"

/*
 * Check the name of an exchange, in UTF-8.  Returns NULL if the name is valid,
 * else the reason, a sentence for an error's detail.  Needs no transaction.
 */
extern const char *cqrs_exchange_problem(const char *name);

#endif							/* CQRS_EXCHANGE_H */
