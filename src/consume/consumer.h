/*-------------------------------------------------------------------------
 *
 * consumer.h
 *	  The worker that turns the messages of a queue into rows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_CONSUMER_H
#define CQRS_CONSUMER_H

#include "postgres.h"

/* Register the kind of worker; called once, while the library is preloaded. */
extern void cqrs_consumer_init(void);

#endif							/* CQRS_CONSUMER_H */
