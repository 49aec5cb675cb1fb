/*-------------------------------------------------------------------------
 *
 * rights.h
 *	  What a user needs to define masters and replicas.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_RIGHTS_H
#define CQRS_RIGHTS_H

#include "postgres.h"

/* Raise an error unless a table exists and the current user owns it. */
extern void cqrs_rights_check_table(Oid relid);

/*
 * Raise an error unless the current user may choose an exchange.  NULL is
 * cqrs.exchange.  The exchange so far, "before", may stay, whoever has set it.
 */
extern void cqrs_rights_check_exchange(const char *before, const char *after);

/* The owner of a table, InvalidOid if the table is gone. */
extern Oid	cqrs_rights_table_owner(Oid relid);

#endif							/* CQRS_RIGHTS_H */
