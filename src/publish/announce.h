/*-------------------------------------------------------------------------
 *
 * announce.h
 *	  The masters of a database, for other databases of the server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_ANNOUNCE_H
#define CQRS_ANNOUNCE_H

#include "worker/worker.h"

/*
 * Show the masters of the database to the others (outbox/claim.h).  For lane 0,
 * in a transaction.
 */
extern void cqrs_announce_masters(const CqrsWorker *worker);

/* The same of no masters, when the publisher ends. */
extern void cqrs_announce_nothing(const CqrsWorker *worker);

#endif							/* CQRS_ANNOUNCE_H */
