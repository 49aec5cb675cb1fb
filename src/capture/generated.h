/*-------------------------------------------------------------------------
 *
 * generated.h
 *	  Values of generated columns, before PostgreSQL has computed them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_GENERATED_H
#define CQRS_GENERATED_H

#include "postgres.h"

#include "access/htup.h"
#include "utils/relcache.h"

#include "master/bound.h"

/*
 * Whether a generated column will have another value in "new" than it has in
 * "old".  "field" is an element of the array "fields", which was allocated as
 * a whole; it caches what is found out about the column.
 */
extern bool cqrs_generated_differs(Relation rel, CqrsField *fields,
								   CqrsField *field, HeapTuple old,
								   HeapTuple new);

#endif							/* CQRS_GENERATED_H */
