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

#include "replica/replica.h"

/*
 * Raise an error if a replica does not fit its table and functions.  The
 * caller has the table locked, or accepts an answer that is old already.
 */
extern void cqrs_registration_check(const CqrsReplicaRow *row);

#endif							/* CQRS_REGISTRATION_H */
