/*-------------------------------------------------------------------------
 *
 * fields.h
 *	  The columns that a master publishes and tracks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_FIELDS_H
#define CQRS_FIELDS_H

#include "postgres.h"

#include "utils/relcache.h"

#include "master/bound.h"
#include "master/master.h"

/*
 * Fill in the fields and the tracked fields of *master, from "row", for a
 * table or a partition of it; the order is that of the root's columns.  Raises
 * an error if they do not fit.  Allocates in the current context.
 */
extern void cqrs_fields_bind(Relation rel, Relation root,
							 const CqrsRelation *relation,
							 const CqrsMasterRow *row, CqrsMaster *master);

#endif							/* CQRS_FIELDS_H */
