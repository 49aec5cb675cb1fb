/*-------------------------------------------------------------------------
 *
 * column_use.h
 *	  What the options of a master do with columns of its table.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_COLUMN_USE_H
#define CQRS_COLUMN_USE_H

#include "postgres.h"

#include "master/master.h"

/*
 * What a master does with a column, as a verb phrase; NULL when nothing: then
 * the column may go.
 */
extern const char *cqrs_definition_use(const CqrsMasterRow *row,
									   const char *name);

/* Whether values of a column are in messages. */
extern bool cqrs_definition_publishes(const CqrsMasterRow *row,
									  const char *name);

/* Whether it is cqrs_revision or cqrs_updated. */
extern bool cqrs_definition_is_own(const char *name);

/* The key of a column in messages; "name" itself where no other is given. */
extern const char *cqrs_definition_key(const CqrsMasterRow *row,
									   const char *name);

/* Whether sync_when names a column. */
extern bool cqrs_definition_condition_uses(const CqrsMasterRow *row,
										   const char *name);

/* Have a master name a renamed column anew, so that its messages stay. */
extern void cqrs_definition_rename(CqrsMasterRow *row, const char *from,
								   const char *to);

#endif							/* CQRS_COLUMN_USE_H */
