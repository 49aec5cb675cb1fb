/*-------------------------------------------------------------------------
 *
 * columns.h
 *	  Options that name columns of a table.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_COLUMNS_H
#define CQRS_COLUMNS_H

#include "postgres.h"

#include "nodes/pg_list.h"

/* Raise an error if a list of char * has a name twice. */
extern void cqrs_columns_check_distinct(List *names, const char *option);

/* Whether a column is cqrs_revision or cqrs_updated. */
extern bool cqrs_columns_is_own(const char *name);

/*
 * The key of a column in messages: its name, unless the map (jsonb, or null)
 * has another.
 */
extern const char *cqrs_columns_key(const NullableDatum *map,
									const char *name);

/*
 * The columns that a map names, each with a key that is a string.  Raises an
 * error for the user if the map is anything else.
 */
extern List *cqrs_columns_mapped(const NullableDatum *map);

/* Rename a column in a list (text[], or null). */
extern void cqrs_columns_rename_in_list(NullableDatum *option,
										const char *from, const char *to);

/*
 * Rename a column in a map.  With "keeps_key", a column without an entry keeps
 * its old name as its key.
 */
extern void cqrs_columns_rename_in_map(NullableDatum *map, const char *from,
									   const char *to, bool keeps_key);

#endif							/* CQRS_COLUMNS_H */
