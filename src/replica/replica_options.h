/*-------------------------------------------------------------------------
 *
 * replica_options.h
 *	  The options of replicas.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_REPLICA_OPTIONS_H
#define CQRS_REPLICA_OPTIONS_H

#include "postgres.h"

#include "define/option.h"
#include "replica/replica.h"

/*
 * By CqrsReplicaOption: the arguments of cqrs_register_replica(), the keys of
 * cqrs_alter_replica().
 */
extern const CqrsOptionTable cqrs_replica_options;

#endif							/* CQRS_REPLICA_OPTIONS_H */
