/*-------------------------------------------------------------------------
 *
 * bound.h
 *	  Masters, bound to the columns of their table.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_BOUND_H
#define CQRS_BOUND_H

#include "postgres.h"

#include "access/attnum.h"
#include "access/tupconvert.h"
#include "nodes/pg_list.h"

#include "outbox/message.h"

/* A column that is published, tracked, or part of the primary key. */
typedef struct CqrsField
{
	AttrNumber	attnum;
	char	   *column;
	char	   *key;			/* its name in messages */
	bool		ours;			/* cqrs_revision or cqrs_updated */
	struct CqrsValueFormat *format; /* of a key: owned by serialize.c, NULL
									 * until used */
	struct CqrsGenerated *generated;	/* of a generated column: owned by
										 * generated.c, NULL until used */
} CqrsField;

/* In the order of the choices of "on_truncate" */
typedef enum CqrsOnTruncate
{
	CQRS_TRUNCATE_DELETES,
	CQRS_TRUNCATE_REFUSED,
	CQRS_TRUNCATE_IGNORED
} CqrsOnTruncate;

/* One published view of a table: a row of cqrs.master, bound to the table. */
typedef struct CqrsMaster
{
	char	   *cqrs_id;
	Oid			relid;			/* the table that was registered */
	int			nfields;
	CqrsField  *fields;			/* in the order of the message */
	bool		tracks;			/* the option tracked_fields is not null */
	int			ntracked;
	CqrsField  *tracked;
	bool		produce;
	char	   *serializer;		/* qualified names of functions, or NULL */
	char	   *meta;
	char	   *delete_data;
	char	   *sync_when;		/* or NULL */
	bool		leave_deletes;	/* a row that no longer matches is deleted */
	bool		parks;			/* an error of a hook parks the message, and
								 * does not fail the transaction */
	bool		skip_unchanged;
	CqrsOnTruncate on_truncate;
	CqrsMessage message;		/* as its messages begin: cqrs_id, and options
								 * that they take along */
	struct CqrsRowFormat *format;	/* owned by serialize.c, NULL until used */
	struct CqrsHooks *hooks;	/* owned by hooks.c: those that are not in use */
} CqrsMaster;

/*
 * A table that has masters, or a partition or chunk of one.  Column numbers
 * are those of the table itself; the order of columns in messages is the
 * root's.
 */
typedef struct CqrsRelation
{
	Oid			relid;			/* hash key */
	bool		valid;
	Oid			root;			/* the table that was registered */
	Oid			owner;			/* of the root */
	bool		is_hypertable;	/* the root is a hypertable of TimescaleDB */
	TupleDesc	root_desc;
	TupleConversionMap *to_root;	/* NULL: the same layout */
	MemoryContext context;		/* holds all that follows */
	AttrNumber	revision;		/* attribute numbers of cqrs_revision ... */
	AttrNumber	updated;		/* ... and cqrs_updated */
	int			nkeys;
	CqrsField  *keys;			/* the primary key, in the key's order */
	Oid			key_index;
	bool		key_deferrable;
	List	   *masters;		/* of CqrsMaster, by cqrs_id */
} CqrsRelation;

/* Whether users' functions or expressions take part in making messages. */
static inline bool
cqrs_master_has_hooks(const CqrsMaster *master)
{
	return master->meta != NULL || master->serializer != NULL ||
		master->sync_when != NULL || master->delete_data != NULL;
}

#endif							/* CQRS_BOUND_H */
