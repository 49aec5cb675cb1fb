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

/* A number that changes whenever any function may have changed. */
extern uint64 cqrs_function_generation(void);

/*
 * The name by which a function for an option is stored.  Raises an error if
 * the function does not exist.
 */
extern char *cqrs_function_qualified_name(const char *role, Oid function);

/*
 * The owner of the function that cqrs_function_find() would find, whatever
 * rights anybody has; InvalidOid if there is none.
 */
extern Oid	cqrs_function_owner(const char *name,
								const CqrsFunctionKind *kind);

/*
 * The OIDs of all functions of a qualified name, with or without those that
 * are VOLATILE, whatever rights the current user has.
 */
extern List *cqrs_function_candidates(const char *name, bool with_volatile);

#endif							/* CQRS_FUNCTION_H */
