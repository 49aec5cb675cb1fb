/*-------------------------------------------------------------------------
 *
 * truncate.h
 *	  Messages of the rows that TRUNCATE removes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_TRUNCATE_H
#define CQRS_TRUNCATE_H

#include "postgres.h"

#include "utils/relcache.h"

/*
 * "rel" is about to be truncated: put the messages of its rows into the outbox.
 * Returns whether there were any.
 */
extern bool cqrs_truncate_rows(Relation rel);

#endif							/* CQRS_TRUNCATE_H */
