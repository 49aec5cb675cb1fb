/*-------------------------------------------------------------------------
 *
 * key_type.h
 *	  Whether keys of a type can be read back from the JSON of messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_KEY_TYPE_H
#define CQRS_KEY_TYPE_H

#include "postgres.h"

#include "master/relation.h"

/* Raise an error unless the keys of a table can be read back. */
extern void cqrs_key_type_check(Relation rel, const CqrsRelation *relation);

#endif							/* CQRS_KEY_TYPE_H */
