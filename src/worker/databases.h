/*-------------------------------------------------------------------------
 *
 * databases.h
 *	  Which databases there are, for the launcher.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_DATABASES_H
#define CQRS_DATABASES_H

#include "postgres.h"

#include "nodes/pg_list.h"

/*
 * All databases, in the current context; and in *connectable those that allow
 * connections and are no templates.
 */
extern List *cqrs_databases_read(List **connectable);

/* Whether a database is there and takes connections. */
extern bool cqrs_databases_is_open(Oid dboid);

#endif							/* CQRS_DATABASES_H */
