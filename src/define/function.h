/*-------------------------------------------------------------------------
 *
 * function.h
 *	  Users' functions, by qualified name and exact signature.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_FUNCTION_H
#define CQRS_FUNCTION_H

#include "postgres.h"

#include "fmgr.h"
#include "nodes/pg_list.h"

/* A function that has been looked up. */
typedef struct CqrsFunction
{
	char	   *name;			/* qualified; NULL: there is none */
	Oid			result;
	FmgrInfo	flinfo;
} CqrsFunction;

typedef struct CqrsSignature
{
	int			nargs;
	Oid			args[4];
	Oid			result;
} CqrsSignature;

/* What a function is for, and what is required of it. */
typedef struct CqrsFunctionKind
{
	const char *role;			/* the option or setting that it is for */
	int			nsignatures;
	const CqrsSignature *signatures;	/* one of them */
	const char *others;			/* hint about the signatures after the first,
								 * or NULL */
	const char *stable;			/* why VOLATILE is refused; NULL: VOLATILE is
								 * accepted */
} CqrsFunctionKind;

/*
 * Look up a function that the owner of a table may call, into the current
 * context; returns the number of the signature that it has.  If there is none,
 * raises an error for the user.
 */
extern int	cqrs_function_find(CqrsFunction *function, const char *name,
							   const CqrsFunctionKind *kind, Oid owner);

/*
 * Whether a function has code of users: it is not PostgreSQL's own, and not in C,
 * in which only superusers create functions.
 */
extern bool cqrs_function_has_users_code(Oid function);

/* A number that changes whenever any function may have changed. */
extern uint64 cqrs_function_generation(void);

/*
 * The name by which a function for an option is stored.  Raises an error if
 * the function does not exist.
 */
extern char *cqrs_function_qualified_name(const char *role, Oid function);

/*
 * The function that cqrs_function_find() would find, whatever rights anybody has,
 * and its owner; InvalidOid if there is none.
 */
extern Oid	cqrs_function_oid(const char *name, const CqrsFunctionKind *kind);
extern Oid	cqrs_function_owner(const char *name,
								const CqrsFunctionKind *kind);

/*
 * A function that runs with the rights of a role, and can be replaced by another
 * role, its owner, that does not have these rights by itself.
 */
typedef struct CqrsForeignFunction
{
	const char *object;			/* "master" or "replica" */
	const char *cqrs_id;
	const char *option;			/* that the function is for */
	Oid			function;
	Oid			owner;
	Oid			role;			/* that it runs with the rights of */
} CqrsForeignFunction;

/* Add a function to a list of CqrsForeignFunction, if it is one. */
extern List *cqrs_function_add_foreign(List *list, const char *object,
									   const char *cqrs_id, const char *option,
									   Oid function, Oid role);

/* Warn of the functions of a list that are not in another one. */
extern void cqrs_function_warn_foreign(List *list, List *known);

/*
 * The OIDs of all functions of a qualified name, with or without those that
 * are VOLATILE, whatever rights the current user has.
 */
extern List *cqrs_function_candidates(const char *name, bool with_volatile);

#endif							/* CQRS_FUNCTION_H */
