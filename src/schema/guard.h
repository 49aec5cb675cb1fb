/*-------------------------------------------------------------------------
 *
 * guard.h
 *	  What masters rely on in the schema.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_GUARD_H
#define CQRS_GUARD_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "ddl/facts.h"

/*
 * Raise an error if those of the commands (AlterTableCmd) that rewrite the
 * table would take something from a master.
 */
extern void cqrs_guard_foresee(const CqrsTableFacts *before, List *commands);

/*
 * Raise an error if a table cannot become a partition of another one because
 * either of them has masters.
 */
extern void cqrs_guard_foresee_attach(Oid relid, Oid partition);

/*
 * Raise an error if a hypertable has masters, and a command is to give the
 * hypertable or one of its chunks a child.  InvalidOid: no hypertable.
 */
extern void cqrs_guard_foresee_child(Oid hypertable);

/*
 * Raise an error if a master has lost something since "before" was read;
 * masters follow all other changes.  The table is locked against other changes
 * of its schema.  "disables_trigger": the command was ALTER TABLE ... DISABLE
 * TRIGGER with a name.
 */
extern void cqrs_guard_check_table(const CqrsTableFacts *before,
								   bool disables_trigger);

/* Raise a notice that names the masters of a renamed table. */
extern void cqrs_guard_notice_renamed(Oid relid);

/* Raise an error if a master publishes a type whose form has changed. */
extern void cqrs_guard_check_type(Oid type);

#endif							/* CQRS_GUARD_H */
