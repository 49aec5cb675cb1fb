/*-------------------------------------------------------------------------
 *
 * definition.h
 *	  What users have defined, as it is stored: the rows of cqrs.master and
 *	  cqrs.replica.
 *
 * Both tables begin with cqrs_id and the table; the options follow.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_DEFINITION_H
#define CQRS_DEFINITION_H

#include "postgres.h"

#include "access/htup.h"
#include "nodes/pg_list.h"
#include "utils/relcache.h"

#define CQRS_DEFINITION_RELATION	2	/* column of the table */
#define CQRS_DEFINITION_NATTS(noptions)	((noptions) + 2)

/* A row.  The structs of masters and replicas begin with the same fields. */
typedef struct CqrsDefinition
{
	char	   *cqrs_id;
	Oid			relid;			/* InvalidOid: none; stored as null */
	NullableDatum options[FLEXIBLE_ARRAY_MEMBER];
} CqrsDefinition;

/* The rows of masters, or the rows of replicas. */
typedef struct CqrsDefinitionKind
{
	Oid			table;
	const Oid  *by_id;			/* its index on cqrs_id, in CqrsObjects */
	int			noptions;
} CqrsDefinitionKind;

/* The row with a cqrs_id, in the current context, or NULL. */
extern void *cqrs_definition_read(const CqrsDefinitionKind *kind,
								  const char *cqrs_id);

/* A row of an open table, in the current context. */
extern void *cqrs_definition_from_tuple(Relation rel, HeapTuple tuple,
										int noptions);

/* Write a row: a new one, or the new version of an existing one. */
extern void cqrs_definition_insert(const CqrsDefinitionKind *kind,
								   const void *row);
extern void cqrs_definition_update(const CqrsDefinitionKind *kind,
								   const void *row);
extern void cqrs_definition_delete(const CqrsDefinitionKind *kind,
								   const char *cqrs_id);

/* Sort a list of rows by cqrs_id. */
extern void cqrs_definition_sort(List *rows);

#endif							/* CQRS_DEFINITION_H */
