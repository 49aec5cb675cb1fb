/*-------------------------------------------------------------------------
 *
 * ddl.h
 *	  Commands that change the schema, and judges of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_DDL_H
#define CQRS_DDL_H

#include "postgres.h"

#include "nodes/nodes.h"
#include "nodes/pg_list.h"

#include "ddl/facts.h"

/* What a command may touch. */
typedef enum CqrsDdlScope
{
	CQRS_SCOPE_NONE,
	CQRS_SCOPE_TABLES,			/* the tables that it names */
	CQRS_SCOPE_FUNCTIONS,		/* any function */
	CQRS_SCOPE_ALL				/* anything */
} CqrsDdlScope;

/* A command, as judges see it. */
typedef struct CqrsDdlCommand
{
	Node	   *statement;		/* not to be used after the command */
	CqrsDdlScope scope;
	bool		takes_tables;	/* it may drop tables, or detach partitions */
	bool		changes_meanings;	/* SQL expressions may mean something else
									 * after it, and the extension is usable */
	bool		changes_owners; /* tables or functions may belong to another
								 * role after it, and the extension is usable */
	bool		disables_trigger;	/* it does so by name */
	Oid			altered;		/* table of ALTER TABLE, or InvalidOid */
	Oid			renamed;		/* table that it renames, or InvalidOid */
	Oid			retyped;		/* type whose values take another form by it,
								 * or InvalidOid */
	bool		respells;		/* that form is another text, too */
	List	   *relids;			/* tables that it may touch */
	List	   *tables;			/* CqrsTableFacts of those that exist, before */
} CqrsDdlCommand;

/*
 * What one kind of object, as masters, relies on.  The functions are called in
 * a memory context that lasts as long as the command.
 */
typedef struct CqrsDdlJudge
{
	/* The OIDs of the tables that it guards. */
	List	   *(*relids) (void);

	/*
	 * Read what is to be compared after the command; NULL if there is nothing
	 * to judge then.  If the command would be refused only after a long time,
	 * raise the error now.
	 */
	void	   *(*before) (const CqrsDdlCommand *command);

	/*
	 * Compare what was read with the state after the command.  Raise an error
	 * if something is lost, and follow all other changes.
	 */
	void		(*after) (const CqrsDdlCommand *command, void *state);

	/* The extension is about to be dropped.  NULL: nothing to do. */
	void		(*before_drop_extension) (void);
} CqrsDdlJudge;

typedef struct CqrsDdlGuard CqrsDdlGuard;

/* Register a judge; called once, while the library is preloaded. */
extern void cqrs_ddl_register(const CqrsDdlJudge *judge);

/* Whether a command drops the extension. */
extern bool cqrs_ddl_drops_extension(Node *statement);

/*
 * Ask the judges before a command runs; NULL if there is nothing to guard.
 */
extern CqrsDdlGuard *cqrs_ddl_before(Node *statement);

/* Ask the judges after the command, and end the guard. */
extern void cqrs_ddl_after(CqrsDdlGuard *guard);

/*
 * For after(): call a function for each table that the command may have
 * touched, if this transaction has locked it against other schema changes.
 */
extern void cqrs_ddl_each_table(const CqrsDdlCommand *command,
								void *state,
								void (*check) (const CqrsDdlCommand *command,
											   void *state,
											   const CqrsTableFacts *before));

#endif							/* CQRS_DDL_H */
