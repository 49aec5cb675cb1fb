/*-------------------------------------------------------------------------
 *
 * ddl.h
 *	  Commands that change the schema below masters.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_DDL_H
#define CQRS_DDL_H

#include "postgres.h"

#include "nodes/nodes.h"

typedef struct CqrsDdlGuard CqrsDdlGuard;

/* Whether a command drops the extension. */
extern bool cqrs_ddl_drops_extension(Node *statement);

/*
 * What masters rely on and a command may take away, as it is before the
 * command; NULL when there is nothing to guard.  An error when the command
 * is one that would work for long before it is refused.
 */
extern CqrsDdlGuard *cqrs_ddl_before(Node *statement);

/*
 * Compare that with what the command has left: an error when a master has
 * lost something, and renamed columns are followed.  Ends the guard.
 */
extern void cqrs_ddl_after(CqrsDdlGuard *guard);

#endif							/* CQRS_DDL_H */
