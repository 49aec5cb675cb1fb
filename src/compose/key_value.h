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

/* Whether different values of a type can have the same JSON. */
extern bool cqrs_key_value_is_shared(Oid type);

/*
 * Read a value of a type that key_type.h accepts.  Domains are read as their
 * base types, and lengths are ignored, both in parts of the type as well.  So
 * the result is for comparisons only, and must not be stored.
 */
extern Datum cqrs_key_value_read(const JsonbValue *json, Oid type,
								 bool *isnull);

/* The lowest and the highest value that have the same JSON as a value. */
extern Datum cqrs_key_value_lowest(Datum value, Oid type);
extern Datum cqrs_key_value_highest(Datum value, Oid type);

#endif							/* CQRS_KEY_VALUE_H */
