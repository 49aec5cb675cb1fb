/*-------------------------------------------------------------------------
 *
 * catalog.h
 *	  Masters, and the extension's own objects, as a backend knows them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_CATALOG_H
#define CQRS_CATALOG_H

#include "postgres.h"

#include "access/attnum.h"
#include "access/skey.h"
#include "access/tupconvert.h"
#include "nodes/pg_list.h"
#include "utils/relcache.h"

#include "master.h"

#define CQRS_SEGMENTS	3

/* The extension's objects in the current database. */
typedef struct CqrsObjects
{
	Oid			extension;
	Oid			master;			/* table cqrs.master */
	Oid			master_by_id;	/* its indexes */
	Oid			master_by_relation;
	Oid			parked;			/* table cqrs.parked */
	Oid			publisher;		/* table cqrs.publisher */
	Oid			watermark;		/* sequence cqrs.watermark */
	Oid			segment[CQRS_SEGMENTS];
	Oid			segment_index[CQRS_SEGMENTS];
} CqrsObjects;

/* One published column. */
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

typedef enum CqrsOnTruncate
{
	CQRS_TRUNCATE_DELETES,
	CQRS_TRUNCATE_REFUSED,
	CQRS_TRUNCATE_IGNORED
} CqrsOnTruncate;

/* One published view of a table: a row of cqrs.master, resolved. */
typedef struct CqrsMaster
{
	char	   *cqrs_id;
	Oid			relid;			/* the table that was registered */
	int			nfields;
	CqrsField  *fields;			/* in the order of the message */
	bool		tracks;			/* has tracked fields at all */
	int			ntracked;
	CqrsField  *tracked;
	bool		produce;
	char	   *serializer;		/* qualified names of functions, or NULL */
	char	   *meta;
	char	   *delete_data;
	char	   *sync_when;		/* or NULL */
	bool		leave_deletes;	/* a row that no longer matches is deleted */
	bool		parks;			/* instead of failing the transaction */
	bool		skip_unchanged;
	CqrsOnTruncate on_truncate;
	char	   *exchange;		/* NULL: cqrs.exchange */
	char	   *routing_key;	/* NULL: the usual one */
	int			ttl_s;			/* -1: cqrs.message_ttl */
	struct CqrsRowFormat *format;	/* owned by serialize.c, NULL until used */
	struct CqrsHooks *hooks;	/* owned by function.c, NULL until used */
} CqrsMaster;

/*
 * A table that has masters, or a partition of one.  Numbers of columns are
 * those of the table itself, their order in messages is the root's.
 */
typedef struct CqrsRelation
{
	Oid			relid;			/* hash key */
	bool		valid;
	Oid			root;			/* the table that was registered */
	Oid			owner;			/* of the root */
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

/* Whether anything of the user's takes part in making a master's messages. */
static inline bool
cqrs_master_has_hooks(const CqrsMaster *master)
{
	return master->meta != NULL || master->serializer != NULL ||
		master->sync_when != NULL || master->delete_data != NULL;
}

/* Register for invalidations; called once in each backend, when first used. */
extern void cqrs_catalog_init(void);

/*
 * The extension's objects.  NULL when the current database does not have the
 * extension and missing_ok is set, an error when not.  Needs a transaction.
 */
extern const CqrsObjects *cqrs_catalog_objects(bool missing_ok);

/* Whether they are there, and of the version that this library is for. */
extern bool cqrs_catalog_is_usable(void);

/*
 * The masters of a table, NULL when it has none.  What is returned stays
 * valid until the end of the transaction.
 */
extern CqrsRelation *cqrs_catalog_relation(Oid relid);

/*
 * The topmost table of the partition tree that a table is in, also where it is
 * being detached by DETACH ... CONCURRENTLY; else the table itself.
 */
extern Oid	cqrs_catalog_root(Oid relid);

/* Scan keys for the index of the primary key: where it is that of a row. */
extern ScanKeyData *cqrs_catalog_key_scan(Relation rel,
										  const CqrsRelation *relation,
										  HeapTuple row);

/* The master of that name, and its table; an error when there is none. */
extern CqrsMaster *cqrs_catalog_master(const char *cqrs_id,
									   CqrsRelation **relation);

/*
 * Resolve masters against their table, or a partition of it: raises the error
 * that a user is to see when they do not fit.  "rows" are CqrsMasterRow.
 * Allocates in the current context.
 */
extern void cqrs_catalog_resolve(Relation rel, List *rows,
								 CqrsRelation *relation);

#endif							/* CQRS_CATALOG_H */
