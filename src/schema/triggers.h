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
 * their names.  The trigger of UPDATE fires after the user's, so that what these
 * decide is known.  The trigger of INSERT and DELETE fires before the user's:
 * these may insert rows that refer to the new one, or delete rows that the old
 * one referred to, and a row is noted before others that change on its account.
 */
#define CQRS_TRIGGER_INSERT_DELETE	"00_cqrs_insert_delete"
#define CQRS_TRIGGER_UPDATE			"zz_cqrs_update"
#define CQRS_TRIGGER_TRUNCATE		"zz_cqrs_truncate"

/* Add those of cqrs_revision and cqrs_updated that a table does not have. */
extern void cqrs_triggers_add_columns(Oid relid);

/* Create the triggers of a table and its partitions, unless it has them. */
extern void cqrs_triggers_create(Oid relid);

/* Drop what create() made, as far as it is there. */
extern void cqrs_triggers_drop(Oid relid);

/* Have the triggers fire for the changes that "replication" names. */
extern void cqrs_triggers_enable(const CqrsMasterRow *row);

/*
 * Give a partition the trigger that it lacks.  One that has no row triggers is
 * being restored from a dump, which brings all of them; one that is complete
 * may have them disabled on purpose.
 */
extern void cqrs_triggers_follow(Oid relid, const CqrsMasterRow *row);

#endif							/* CQRS_TRIGGERS_H */
