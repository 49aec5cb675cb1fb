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
 * Read what masters rely on and a command may change, before the command runs;
 * NULL if there is nothing to guard.  If the command would be refused only
 * after a long time, raise the error now.
 */
extern CqrsDdlGuard *cqrs_ddl_before(Node *statement);

/*
 * Compare what was read with the state after the command.  Raises an error if
 * a master has lost something; masters follow renamed columns.  Ends the
 * guard.
 */
extern void cqrs_ddl_after(CqrsDdlGuard *guard);

#endif							/* CQRS_DDL_H */
