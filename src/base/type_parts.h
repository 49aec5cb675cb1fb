/*-------------------------------------------------------------------------
 *
 * type_parts.h
 *	  Types, and the types that their values contain.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_TYPE_PARTS_H
#define CQRS_TYPE_PARTS_H

#include "postgres.h"

/*
 * Whether "test" is true for a type or for one of its parts: the base type of a
 * domain, elements of an array, the bounds of a range, attributes of a row, and
 * their parts.
 */
extern bool cqrs_type_parts_any(Oid type, bool (*test) (Oid type, Oid arg),
								Oid arg);

/* Whether "part" is a type or one of its parts. */
extern bool cqrs_type_parts_have(Oid type, Oid part);

#endif							/* CQRS_TYPE_PARTS_H */
