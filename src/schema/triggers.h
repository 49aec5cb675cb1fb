/*-------------------------------------------------------------------------
 *
 * triggers.h
 *	  The triggers of a table that has masters, and the columns they fill.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_TRIGGERS_H
#define CQRS_TRIGGERS_H

#include "postgres.h"

#include "master/master.h"

/*
 * Names of the triggers on a master's table.  Triggers fire in the order of
 * their names.  The UPDATE trigger fires after the user's triggers, so that it
 * sees the final row.  The INSERT and DELETE trigger fires before the user's
 * triggers, which may insert rows that refer to the new row, or delete rows
 * that the old row referred to.  So a row is noted before the rows that change
 * because of it.
 */
#define CQRS_TRIGGER_INSERT_DELETE	"00_cqrs_insert_delete"
#define CQRS_TRIGGER_UPDATE			"zz_cqrs_update"
#define CQRS_TRIGGER_TRUNCATE		"zz_cqrs_truncate"

/* Add cqrs_revision and cqrs_updated to a table, unless it has them. */
extern void cqrs_triggers_add_columns(Oid relid);

/* Create the triggers of a table and its partitions, unless it has them. */
extern void cqrs_triggers_create(Oid relid);

/* Drop those triggers of cqrs_triggers_create() that exist. */
extern void cqrs_triggers_drop(Oid relid);

/* Make the triggers fire for the changes that "replication" names. */
extern void cqrs_triggers_enable(const CqrsMasterRow *row);

/*
 * Give a partition the TRUNCATE trigger that it lacks.  A partition without
 * row triggers is being restored from a dump, which brings all triggers.  A
 * partition with all triggers may have them disabled on purpose.
 */
extern void cqrs_triggers_follow(Oid relid, const CqrsMasterRow *row);

#endif							/* CQRS_TRIGGERS_H */
