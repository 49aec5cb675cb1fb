/*-------------------------------------------------------------------------
 *
 * relation.h
 *	  Masters, as a backend knows them.
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
 * The masters of a table, NULL when it has none.  What is returned stays
 * valid until the end of the transaction.
 */
extern CqrsRelation *cqrs_catalog_relation(Oid relid);

/*
 * The topmost table of the partition tree that a table is in, also where it is
 * being detached by DETACH ... CONCURRENTLY; else the table itself.
 */
extern Oid	cqrs_catalog_root(Oid relid);

/* Scan keys for the index of the primary key: where it is that of a row. */
extern ScanKeyData *cqrs_catalog_key_scan(Relation rel,
										  const CqrsRelation *relation,
										  HeapTuple row);

/*
 * The master of that name, and its table; an error when there is none.  The
 * caller has a lock on the table, or does not look at its columns.
 */
extern CqrsMaster *cqrs_catalog_master(const char *cqrs_id,
									   CqrsRelation **relation);

/*
 * Open and lock the table of a master, and only then look up the master, so
 * that the two fit.
 */
extern Relation cqrs_catalog_open(const char *cqrs_id, LOCKMODE lock,
								  CqrsRelation **relation,
								  CqrsMaster **master);

/*
 * Resolve masters against their table, or a partition of it: raises the error
 * that a user is to see when they do not fit.  "rows" are CqrsMasterRow.
 * Allocates in the current context.
 */
extern void cqrs_catalog_resolve(Relation rel, List *rows,
								 CqrsRelation *relation);

#endif							/* CQRS_RELATION_H */
