/*-------------------------------------------------------------------------
 *
 * table.h
 *	  The table of a replica, open for writing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_TABLE_H
#define CQRS_TABLE_H

#include "postgres.h"

#include "access/genam.h"
#include "access/skey.h"
#include "executor/execPartition.h"
#include "nodes/execnodes.h"
#include "utils/resowner.h"

#include "replica/mapping.h"

/*
 * A table that has rows: the replica's, or a partition of it.
 */
typedef struct CqrsLeaf
{
	Oid			relid;
	ResultRelInfo *info;
	AttrNumber *attnums;		/* of the replica's columns here, by their
								 * attnum - 1; NULL: the same */
	Relation	index;			/* of the primary key */
	IndexScanDesc scan;
	ScanKeyData keys[INDEX_MAX_KEYS];
	TupleTableSlot *old;		/* the row that is there */
	TupleTableSlot *new;		/* the new version of the row */
} CqrsLeaf;

/*
 * A table that is open for writing.  It belongs to the resource owner under
 * which it was opened.
 */
typedef struct CqrsTable
{
	ResourceOwner owner;
	bool		busy;			/* a message is being applied with it */
	Relation	rel;
	const CqrsMapping *mapping;
	EState	   *estate;
	EPQState	epq;
	ModifyTableState *modify;
	PartitionTupleRouting *routing; /* NULL: not partitioned */
	TupleTableSlot *key_slot;	/* a row with its key, for routing */
	List	   *leaves;			/* CqrsLeaf */
	ExprState **defaults;		/* by attnum - 1; NULL until the first is used */
} CqrsTable;

/*
 * Open a table, which is locked, in the current context and with the current
 * resource owner; close it.  The mapping must last as long.
 */
extern CqrsTable *cqrs_table_open(Oid relid, const CqrsMapping *mapping);
extern void cqrs_table_close(CqrsTable *table);

/*
 * To be called for each message: makes room for its values, and sets the
 * command id.
 */
extern void cqrs_table_begin_message(CqrsTable *table);

/*
 * The leaf for a key, whose values are in the order of the primary key.  If
 * there is none, returns NULL with missing_ok, else raises an error.
 */
extern CqrsLeaf *cqrs_table_leaf(CqrsTable *table, const Datum *keys,
								 bool missing_ok);

/* The value by default of a column of the replica's table. */
extern Datum cqrs_table_default(CqrsTable *table, AttrNumber attnum,
								bool *isnull);

#endif							/* CQRS_TABLE_H */
