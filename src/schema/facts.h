/*-------------------------------------------------------------------------
 *
 * facts.h
 *	  What masters rely on of a table, as the system catalogs have it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_FACTS_H
#define CQRS_FACTS_H

#include "postgres.h"

#include "nodes/pg_list.h"

#define CQRS_FACTS_TRIGGERS	3

/* A column. */
typedef struct CqrsColumnFacts
{
	char	   *name;			/* NULL: dropped */
	Oid			type;
	int32		typmod;
	bool		not_null;
	bool		has_default;	/* or is generated */
	bool		is_identity;
	bool		is_computed;	/* predicted: gets other values */
} CqrsColumnFacts;

/* A trigger of ours. */
typedef struct CqrsTriggerFacts
{
	Oid			function;		/* InvalidOid: there is no such trigger */
	bool		enabled;
} CqrsTriggerFacts;

/* A table. */
typedef struct CqrsTableFacts
{
	Oid			relid;
	char		persistence;
	Oid			access_method;
	bool		inherits;		/* has a parent, or children other than
								 * partitions */
	int			ncolumns;
	CqrsColumnFacts *columns;
	List	   *key;			/* numbers of columns; NIL: no primary key */
	CqrsTriggerFacts triggers[CQRS_FACTS_TRIGGERS];
} CqrsTableFacts;

/* The names of our triggers, in the order of "triggers". */
extern const char *const cqrs_facts_triggers[CQRS_FACTS_TRIGGERS];

/*
 * The facts about a table, in the current context; NULL if the table is gone.
 * Takes no lock on the table.
 */
extern CqrsTableFacts *cqrs_facts_table(Oid relid);

#endif							/* CQRS_FACTS_H */
