/*-------------------------------------------------------------------------
 *
 * facts.h
 *	  Facts about a table, as the system catalogs have them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_FACTS_H
#define CQRS_FACTS_H

#include "postgres.h"

#include "nodes/pg_list.h"

/* A column. */
typedef struct CqrsColumnFacts
{
	char	   *name;			/* NULL: dropped */
	Oid			type;
	int32		typmod;
	bool		not_null;
	bool		has_default;	/* or is generated */
	bool		is_generated;
	bool		is_identity;
	bool		is_computed;	/* predicted: gets other values */
} CqrsColumnFacts;

typedef struct CqrsTriggerFacts
{
	char	   *name;
	Oid			function;
	bool		enabled;
} CqrsTriggerFacts;

/* A table. */
typedef struct CqrsTableFacts
{
	Oid			relid;
	char	   *name;
	Oid			schema;
	char		kind;			/* pg_class.relkind */
	char		persistence;
	bool		is_partition;
	bool		forces_security;	/* row security, of the owner, too */
	Oid			access_method;
	bool		is_hypertable;
	bool		inherits;		/* has a parent, or children other than
								 * partitions and chunks */
	int			ncolumns;
	CqrsColumnFacts *columns;
	List	   *key;			/* numbers of columns; NIL: no primary key */
	Oid			key_index;
	Oid			key_method;		/* access method of that index */
	List	   *triggers;		/* of CqrsTriggerFacts */
} CqrsTableFacts;

/*
 * The facts about a table, in the current context; NULL if the table is gone.
 * Takes no lock on the table.
 */
extern CqrsTableFacts *cqrs_facts_table(Oid relid);

/*
 * The facts about a trigger; without a function if there is none of that
 * name.
 */
extern const CqrsTriggerFacts *cqrs_facts_trigger(const CqrsTableFacts *facts,
												  const char *name);

#endif							/* CQRS_FACTS_H */
