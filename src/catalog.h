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
} CqrsField;

/* One published view of a table: a row of cqrs.master, resolved. */
typedef struct CqrsMaster
{
	char	   *cqrs_id;
	Oid			relid;
	int			nfields;
	CqrsField  *fields;			/* in the order of the message */
	bool		tracks;			/* has tracked fields at all */
	int			ntracked;
	CqrsField  *tracked;
	char	   *meta;			/* qualified name of the function, or NULL */
	bool		produce;
	struct CqrsRowFormat *format;	/* owned by serialize.c, NULL until used */
} CqrsMaster;

/* A table that has masters. */
typedef struct CqrsRelation
{
	Oid			relid;			/* hash key */
	bool		valid;
	MemoryContext context;		/* holds all that follows */
	AttrNumber	revision;		/* attribute numbers of cqrs_revision ... */
	AttrNumber	updated;		/* ... and cqrs_updated */
	int			nkeys;
	CqrsField  *keys;			/* the primary key, in the key's order */
	Oid			key_index;
	bool		key_deferrable;
	List	   *masters;		/* of CqrsMaster, by cqrs_id */
} CqrsRelation;

/* Register for invalidations; called once in each backend, when first used. */
extern void cqrs_catalog_init(void);

/*
 * The extension's objects.  NULL when the current database does not have the
 * extension and missing_ok is set, an error when not.  Needs a transaction.
 */
extern const CqrsObjects *cqrs_catalog_objects(bool missing_ok);

/*
 * The masters of a table, NULL when it has none.  What is returned stays
 * valid until the end of the transaction.
 */
extern CqrsRelation *cqrs_catalog_relation(Oid relid);

/* The master of that name, and its table; an error when there is none. */
extern CqrsMaster *cqrs_catalog_master(const char *cqrs_id,
									   CqrsRelation **relation);

/*
 * Resolve the options of a master against its table: raises the error that a
 * user is to see when they do not fit.  Allocates in the current context.
 */
extern CqrsMaster *cqrs_catalog_resolve(Relation rel,
										const CqrsRelation *relation,
										const CqrsMasterRow *row);

/*
 * Fill in the part of *relation that does not depend on its masters, in the
 * current context; an error when the table lacks something.
 */
extern void cqrs_catalog_describe(Relation rel, CqrsRelation *relation);

#endif							/* CQRS_CATALOG_H */
