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

/* Raise an error unless the current user owns a table, which exists. */
extern void cqrs_rights_check_table(Oid relid);

/*
 * Raise an error unless the current user may choose an exchange.  NULL is
 * cqrs.exchange.  "before" is the exchange so far: it may stay, whoever has
 * set it.
 */
extern void cqrs_rights_check_exchange(const char *before, const char *after);

#endif							/* CQRS_RIGHTS_H */
