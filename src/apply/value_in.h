/*-------------------------------------------------------------------------
 *
 * value_in.h
 *	  Values of each type, read from the JSON of messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_VALUE_IN_H
#define CQRS_VALUE_IN_H

#include "postgres.h"

#include "apply/json_scan.h"

/* How values of a type are read. */
typedef struct CqrsValueInput CqrsValueInput;

/*
 * Prepare to read values of a type, in the current context, which must outlive
 * the input.  If "json_null" is set, a null is the JSON null where the type
 * has one.
 */
extern CqrsValueInput *cqrs_value_in_prepare(Oid type, int32 typmod,
											 bool json_null);

/*
 * Read a value into the current context.  NULL stands for null, which
 * domains check.  The caller has pinned the settings that input functions
 * depend on.
 */
extern Datum cqrs_value_in_read(CqrsValueInput *input,
								const CqrsJsonValue *json, bool *isnull);

#endif							/* CQRS_VALUE_IN_H */
