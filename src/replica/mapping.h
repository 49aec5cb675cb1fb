/*-------------------------------------------------------------------------
 *
 * mapping.h
 *	  The columns of a replica's table, and their keys in messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_MAPPING_H
#define CQRS_MAPPING_H

#include "postgres.h"

#include "access/attnum.h"
#include "utils/relcache.h"

#include "replica/replica.h"

/* A column that messages write: no generated column, no dropped one. */
typedef struct CqrsMappedColumn
{
	AttrNumber	attnum;
	char	   *column;
	char	   *key;			/* its name in instance_data */
	bool		required;		/* a message without the key fails */
	Oid			type;
	int32		typmod;
} CqrsMappedColumn;

typedef struct CqrsMapping
{
	int			ncolumns;
	CqrsMappedColumn *columns;	/* in the order of the table */
	int			nkeys;
	int		   *keys;			/* columns[] of the primary key, in its order */
	Oid			key_index;
	int			revision;		/* columns[] of cqrs_revision */
	int			updated;		/* columns[] of cqrs_updated */
	AttrNumber	soft_delete;	/* InvalidAttrNumber: none; not in columns[] */
} CqrsMapping;

/*
 * Bind a replica to the columns of its table, which is open and locked.
 * Raises an error, the one that a user is to see, if they do not fit.
 * Allocates in the current context.
 */
extern void cqrs_mapping_bind(Relation rel, const CqrsReplicaRow *row,
							  CqrsMapping *mapping);

/* The same for facts about a table (ddl/facts.h). */
struct CqrsTableFacts;
extern void cqrs_mapping_bind_facts(const struct CqrsTableFacts *facts,
									const CqrsReplicaRow *row,
									CqrsMapping *mapping);

#endif							/* CQRS_MAPPING_H */
