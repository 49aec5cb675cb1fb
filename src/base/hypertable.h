/*-------------------------------------------------------------------------
 *
 * hypertable.h
 *	  Hypertables of TimescaleDB, and their chunks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_HYPERTABLE_H
#define CQRS_HYPERTABLE_H

#include "postgres.h"

/* Whether a table is a hypertable.  Takes no lock on the table. */
extern bool cqrs_hypertable_is(Oid relid);

/*
 * Whether compression, the "columnstore", is enabled for a hypertable, or
 * cannot be told.
 */
extern bool cqrs_hypertable_may_compress(Oid relid);

/* The hypertable that a table is a chunk of, or InvalidOid. */
extern Oid	cqrs_hypertable_of_chunk(Oid relid);

#endif							/* CQRS_HYPERTABLE_H */
