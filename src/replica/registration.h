/*-------------------------------------------------------------------------
 *
 * registration.h
 *	  Whether a replica is sound.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_REGISTRATION_H
#define CQRS_REGISTRATION_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "replica/replica.h"

/*
 * Raise an error if a replica does not fit its table and functions.  The
 * caller has the table locked, or accepts an answer that is old already.
 */
extern void cqrs_registration_check(const CqrsReplicaRow *row);

/*
 * Functions of replicas that run with the rights of other roles than their owners:
 * CqrsForeignFunction, for cqrs_function_warn_foreign().
 */
extern List *cqrs_registration_foreign(List *rows);

#endif							/* CQRS_REGISTRATION_H */
