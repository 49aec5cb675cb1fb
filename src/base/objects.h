/*-------------------------------------------------------------------------
 *
 * objects.h
 *	  The extension's own objects, as a backend knows them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_OBJECTS_H
#define CQRS_OBJECTS_H

#include "postgres.h"

#define CQRS_SEGMENTS	3
#define CQRS_HANDLED_TABLES	2

/*
 * The extension's objects in the current database.  objects.c takes the struct
 * for an array of Oid.
 */
typedef struct CqrsObjects
{
	Oid			extension;
	Oid			master;			/* table cqrs.master */
	Oid			master_by_id;	/* its indexes */
	Oid			master_by_relation;
	Oid			replica;		/* table cqrs.replica */
	Oid			replica_by_id;	/* its indexes */
	Oid			replica_by_relation;
	Oid			message_type;	/* type cqrs.message */
	Oid			parked;			/* table cqrs.parked */
	Oid			skipped;		/* table cqrs.skipped, and its index */
	Oid			skipped_by_id;
	Oid			former;			/* table cqrs.former, and its index */
	Oid			former_by_id;
	Oid			publisher;		/* table cqrs.publisher */
	Oid			home;			/* table cqrs.home */
	Oid			consumer;		/* table cqrs.consumer */
	Oid			failed;			/* table cqrs.failed */
	Oid			failed_by_id;	/* its indexes */
	Oid			failed_by_row;
	Oid			failed_by_time;
	Oid			failed_id;		/* sequence cqrs.failed_id */
	Oid			handled[CQRS_HANDLED_TABLES];	/* cqrs.handled_0 and _1 */
	Oid			handled_index[CQRS_HANDLED_TABLES];
	Oid			handled_turn;	/* table cqrs.handled_turn */
	Oid			at_commit;		/* table cqrs.at_commit, whose trigger makes
								 * the messages of a transaction */
	Oid			watermark;		/* sequence cqrs.watermark */
	Oid			segment[CQRS_SEGMENTS];
	Oid			segment_index[CQRS_SEGMENTS];
} CqrsObjects;

/*
 * How many columns cqrs.master and cqrs.replica have in the version that this
 * library is for.
 */
extern void cqrs_objects_init(int master_natts, int replica_natts);

/*
 * The extension's objects.  If the current database does not have the
 * extension, returns NULL with missing_ok, else raises an error.  Needs a
 * transaction.  An index is that of the last call, and belongs to a table that
 * was locked before that call (objects.c).
 */
extern const CqrsObjects *cqrs_objects_get(bool missing_ok);

/* The schema "cqrs" of the extension, or InvalidOid if that is not installed. */
extern Oid	cqrs_objects_schema(void);

/* Whether the objects exist and match the version of this library. */
extern bool cqrs_objects_are_usable(void);

/* Whether there is a master of that name. */
extern bool cqrs_objects_has_master(const char *cqrs_id);

/* The cqrs_id of a master of a table, or of its replica; or NULL. */
extern char *cqrs_objects_master_of(Oid relid);
extern char *cqrs_objects_replica_of(Oid relid);

#endif							/* CQRS_OBJECTS_H */
