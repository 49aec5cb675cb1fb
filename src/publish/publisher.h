/*-------------------------------------------------------------------------
 *
 * publisher.h
 *	  The process that publishes the outbox of a database, or one of several
 *	  that share it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_PUBLISHER_H
#define CQRS_PUBLISHER_H

#include "postgres.h"

/*
 * Entry point of the background worker; the argument is the database, and
 * bgw_extra has the number of the lane, an int.
 */
extern PGDLLEXPORT void cqrs_publisher_main(Datum arg);

#endif							/* CQRS_PUBLISHER_H */
