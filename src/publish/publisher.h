/*-------------------------------------------------------------------------
 *
 * publisher.h
 *	  The worker that publishes the outbox of a database, or one of several
 *	  that share it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_PUBLISHER_H
#define CQRS_PUBLISHER_H

#include "postgres.h"

/* Register the kind of worker; called once, while the library is preloaded. */
extern void cqrs_publisher_init(void);

#endif							/* CQRS_PUBLISHER_H */
