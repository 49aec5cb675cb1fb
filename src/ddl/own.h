/*-------------------------------------------------------------------------
 *
 * own.h
 *	  Commands that would change the form of the extension's own tables.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_OWN_H
#define CQRS_OWN_H

#include "postgres.h"

#include "nodes/nodes.h"

/*
 * Raise an error if a command would change columns, indexes, constraints or names
 * of one of the extension's tables, or the name of its schema.  Not to be called
 * for commands of the extension's own scripts.
 */
extern void cqrs_own_check(Node *statement);

#endif							/* CQRS_OWN_H */
