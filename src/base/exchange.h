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

/* AMQP 0-9-1: names of exchanges and routing keys are short strings. */
#define CQRS_SHORTSTR_BYTES	255

/*
 * Why an exchange cannot have that name, which is in UTF-8: a sentence for an
 * error's detail, or NULL when it can.  Needs no transaction.
 */
extern const char *cqrs_exchange_problem(const char *name);

#endif							/* CQRS_EXCHANGE_H */
