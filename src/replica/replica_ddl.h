/*-------------------------------------------------------------------------
 *
 * replica_ddl.h
 *	  The judge of commands that change the schema below replicas.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_REPLICA_DDL_H
#define CQRS_REPLICA_DDL_H

#include "postgres.h"

/* Register the judge; called once, while the library is preloaded. */
extern void cqrs_replica_ddl_init(void);

#endif							/* CQRS_REPLICA_DDL_H */
