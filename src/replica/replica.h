/*-------------------------------------------------------------------------
 *
 * replica.h
 *	  The options of replicas, the rows of cqrs.replica, and replicas as the
 *	  consumer knows them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_REPLICA_H
#define CQRS_REPLICA_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "define/option.h"

/* The options of a replica. */
typedef enum CqrsReplicaOption
{
#define CQRS_OPTION(symbol, ...) symbol,
#include "replica/replica_option_list.h"
	CQRS_REPLICA_NOPTIONS
} CqrsReplicaOption;

/* By CqrsReplicaOption */
extern const CqrsOptionTable cqrs_replica_options;

/* A row of cqrs.replica. */
typedef struct CqrsReplicaRow
{
	char	   *cqrs_id;
	Oid			relid;			/* InvalidOid: a replica without a table */
	NullableDatum options[CQRS_REPLICA_NOPTIONS];
} CqrsReplicaRow;

/*
 * A replica, with its options as C types.  The columns of its table are bound
 * elsewhere (mapping.h), under a lock on the table.
 */
typedef struct CqrsReplica
{
	char	   *cqrs_id;
	Oid			relid;			/* InvalidOid: none */
	Oid			owner;			/* of the table, else of the handler: messages
								 * are applied with its rights.  InvalidOid:
								 * there is no such handler, and messages fail */
	char	   *handler;		/* qualified name, or NULL */
	char	   *retry;			/* qualified name, or NULL */
	int			max_retries;	/* -1: for ever */
	int64		retry_delay_ms;
	bool		only_direct_syncs;
	bool		apply_expired;
	char	   *exchange;		/* NULL: cqrs.exchange */
	char	   *routing_key;	/* NULL: cqrs_id */
	const CqrsReplicaRow *row;
} CqrsReplica;

/* The values of options as C types: NULL and NIL for null. */
extern char *cqrs_replica_text(const CqrsReplicaRow *row,
							   CqrsReplicaOption option);
extern List *cqrs_replica_names(const CqrsReplicaRow *row,
								CqrsReplicaOption option);

/* The role with whose rights messages are applied, as in CqrsReplica. */
extern Oid	cqrs_replica_owner(const CqrsReplicaRow *row);

/*
 * The replica of that name, or NULL.  Cached; valid until the transaction
 * ends, or until the next call that may accept invalidation messages.  Needs a
 * transaction.
 */
extern const CqrsReplica *cqrs_replica_find(const char *cqrs_id);

/*
 * A number that changes whenever the result of cqrs_replica_find(), for any
 * name, may have changed.
 */
extern uint64 cqrs_replica_generation(void);

/*
 * All rows of cqrs.replica (CqrsReplicaRow), in the current context, ordered by
 * cqrs_id.  None if the extension is not installed.
 */
extern List *cqrs_replica_read_all(void);

/* The row of that name, in the current context, or NULL. */
extern CqrsReplicaRow *cqrs_replica_read(const char *cqrs_id);

/*
 * Write a row: a new one, or in place of the one with its name.  Other sessions
 * read it again, and the consumer binds or unbinds, when the transaction has
 * committed.
 */
extern void cqrs_replica_insert(const CqrsReplicaRow *row);
extern void cqrs_replica_update(const CqrsReplicaRow *row);
extern void cqrs_replica_delete(const char *cqrs_id);

#endif							/* CQRS_REPLICA_H */
