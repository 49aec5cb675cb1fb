/*-------------------------------------------------------------------------
 *
 * command.h
 *	  Utility commands as SQL, run by us.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_COMMAND_H
#define CQRS_COMMAND_H

#include "postgres.h"

/* Run a utility command, with the rights and settings of the current user. */
extern void cqrs_command_run(const char *command);

/* The quoted name of a relation, with its schema. */
extern char *cqrs_command_relation(Oid relid);

#endif							/* CQRS_COMMAND_H */
