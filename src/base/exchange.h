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

/*
 * AMQP 0-9-1: exchange names, routing keys and the property correlation-id are
 * short strings.
 */
#define CQRS_SHORTSTR_BYTES	255

/*
 * Check the name of an exchange, in UTF-8.  Returns NULL if the name is valid,
 * else the reason, a sentence for an error's detail.  Needs no transaction.
 */
extern const char *cqrs_exchange_problem(const char *name);

#endif							/* CQRS_EXCHANGE_H */
