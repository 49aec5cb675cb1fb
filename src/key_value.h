/*-------------------------------------------------------------------------
 *
 * key_value.h
 *	  Values of key columns, read back from the JSON of messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_KEY_VALUE_H
#define CQRS_KEY_VALUE_H

#include "postgres.h"

#include "utils/jsonb.h"

/* Why values of a type cannot be read back. */
typedef enum CqrsKeyProblem
{
	CQRS_KEY_READABLE,			/* they can */
	CQRS_KEY_UNSTABLE,			/* the text depends on more than the value */
	CQRS_KEY_FUNCTION,			/* to read them could call a user's function */
	CQRS_KEY_DIMENSIONS,		/* an element looks like a dimension */
	CQRS_KEY_OBJECT,			/* the JSON is no text of the type */
	CQRS_KEY_INTERNAL,			/* a type for PostgreSQL's own use */
	CQRS_KEY_VECTOR				/* an array with a lower bound of its own */
} CqrsKeyProblem;

/*
 * Whether keys of a type can be read back.  Where not, "part" is the type that
 * is to blame, which may be a part of the type.
 */
extern CqrsKeyProblem cqrs_key_value_problem(Oid type, Oid *part);

/* Whether different values of a type can have the same JSON. */
extern bool cqrs_key_value_is_shared(Oid type);

/*
 * Read a value of a type without problem.  Domains are read as their base
 * types and lengths are ignored, in parts of the type, too: the result is for
 * comparisons only, and must not be stored.
 */
extern Datum cqrs_key_value_read(const JsonbValue *json, Oid type,
								 bool *isnull);

/* The lowest and the highest of the values that have the JSON of a value. */
extern Datum cqrs_key_value_lowest(Datum value, Oid type);
extern Datum cqrs_key_value_highest(Datum value, Oid type);

#endif							/* CQRS_KEY_VALUE_H */
