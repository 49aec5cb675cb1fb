/*-------------------------------------------------------------------------
 *
 * retype.h
 *	  Whether a change of types changes stored values.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_RETYPE_H
#define CQRS_RETYPE_H

#include "postgres.h"

#include "access/attnum.h"
#include "nodes/parsenodes.h"

/*
 * Whether a column keeps its values when its length or precision changes by
 * ALTER TABLE ... TYPE without USING.
 */
extern bool cqrs_retype_keeps_values(Oid type, int32 old_typmod,
									 int32 new_typmod);

/*
 * The same for ALTER TABLE ... TYPE with USING.  Raises the errors that the
 * command would raise for the expression.
 */
extern bool cqrs_retype_using_keeps_values(Oid relid, AttrNumber attnum,
										   const ColumnDef *definition);

#endif							/* CQRS_RETYPE_H */
