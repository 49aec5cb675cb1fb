/*-------------------------------------------------------------------------
 *
 * relation.h
 *	  The backend's cache of tables and their masters.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_RELATION_H
#define CQRS_RELATION_H

#include "postgres.h"

#include "access/skey.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"

#include "master/bound.h"
#include "master/master.h"

/*
 * The masters of a table, NULL if it has none.  The result stays valid until
 * the end of the transaction.
 */
extern CqrsRelation *cqrs_relation_get(Oid relid);

/*
 * The topmost table of the partition tree that a table is in, even while the
 * table is being detached by DETACH ... CONCURRENTLY; of a chunk, its
 * hypertable; otherwise the table itself.
 */
extern Oid	cqrs_relation_root(Oid relid);

/*
 * Whether rows of a master's table are in other tables: in partitions, or in
 * the chunks of a hypertable.
 */
extern bool cqrs_relation_has_parts(Relation rel);

/* Scan keys for the index of the primary key, which match the key of a row. */
extern ScanKeyData *cqrs_relation_key_scan(Relation rel,
										   const CqrsRelation *relation,
										   HeapTuple row);

/*
 * The master of that name, and its table.  Raises an error if there is none.
 * The caller has a lock on the table, or does not use its columns.
 */
extern CqrsMaster *cqrs_relation_master(const char *cqrs_id,
										CqrsRelation **relation);

/*
 * Open and lock the table of a master, and look up the master only then, so
 * that the master fits the table.
 */
extern Relation cqrs_relation_open(const char *cqrs_id, LOCKMODE lock,
								   CqrsRelation **relation,
								   CqrsMaster **master);

/*
 * Bind masters to their table, or a partition of it.  Raises an error if they
 * do not fit.  "rows" are CqrsMasterRow.  Allocates in the current
 * context.
 */
extern void cqrs_relation_bind(Relation rel, List *rows,
							   CqrsRelation *relation);

#endif							/* CQRS_RELATION_H */
