/*-------------------------------------------------------------------------
 *
 * fit.h
 *	  Which tables can follow a master.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_FIT_H
#define CQRS_FIT_H

#include "postgres.h"

#include "ddl/facts.h"
#include "nodes/pg_list.h"
#include "replica/replica.h"

/* What may make messages of a replica fail. */
typedef struct CqrsFitWarning
{
	char	   *message;
	char	   *detail;			/* a sentence */
	char	   *hint;			/* a sentence */
} CqrsFitWarning;

/* Raise an error if a table cannot follow any master. */
extern void cqrs_fit_check(const CqrsTableFacts *facts);

/* Raise an error if a table cannot be a partition of a replica's table. */
extern void cqrs_fit_check_partition(const CqrsTableFacts *facts);

/* Warnings about the table of a replica: CqrsFitWarning. */
extern List *cqrs_fit_warnings(const CqrsReplicaRow *row);

#endif							/* CQRS_FIT_H */
