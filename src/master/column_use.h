/*-------------------------------------------------------------------------
 *
 * column_use.h
 *	  Which columns of its table the options of a master use.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_COLUMN_USE_H
#define CQRS_COLUMN_USE_H

#include "postgres.h"

#include "master/master.h"

/*
 * A sentence that says how a master uses a column.  NULL if the master does not
 * use the column, which may be dropped then.
 */
extern const char *cqrs_column_use_find(const CqrsMasterRow *row,
										const char *name);

/* Whether values of a column are in messages. */
extern bool cqrs_column_use_publishes(const CqrsMasterRow *row,
									  const char *name);

/*
 * The key of a column in messages: its name, unless "field_map" has another.
 */
extern const char *cqrs_column_use_key(const CqrsMasterRow *row,
									   const char *name);

/* Whether sync_when names a column. */
extern bool cqrs_column_use_in_condition(const CqrsMasterRow *row,
										 const char *name);

/*
 * Give a master the new name of a column, and keep its messages as they are.
 */
extern void cqrs_column_use_rename(CqrsMasterRow *row, const char *from,
								   const char *to);

#endif							/* CQRS_COLUMN_USE_H */
