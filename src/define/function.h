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

/* What a function is for, and has to be. */
typedef struct CqrsFunctionKind
{
	const char *role;			/* its name in messages */
	int			nsignatures;
	const CqrsSignature *signatures;	/* one of them */
	const char *others;			/* hint about those after the first, or NULL */
	const char *stable;			/* why VOLATILE is refused; NULL: it is not */
} CqrsFunctionKind;

/*
 * Look up a function that the owner of a table may call, into the current
 * context; returns the number of the signature that it has.  Raises the error
 * that a user is to see when there is none.
 */
extern int	cqrs_function_find(CqrsFunction *function, const char *name,
							   const CqrsFunctionKind *kind, Oid owner);

/* A number that changes whenever what a name stands for may have. */
extern uint64 cqrs_function_generation(void);

/* The name by which a function is kept; an error without one. */
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
