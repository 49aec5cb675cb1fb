/*-------------------------------------------------------------------------
 *
 * keys.h
 *	  Primary keys as JSON, back to rows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_KEYS_H
#define CQRS_KEYS_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/jsonb.h"
#include "utils/queryenvironment.h"

#include "master/relation.h"

/*
 * Whether "keys" is an array of keys as messages have them: values, or arrays
 * of as many values as the primary key has columns.
 */
extern bool cqrs_keys_are_valid(const Jsonb *keys, Relation rel,
								const CqrsRelation *relation);

/*
 * offer() makes an environment in which a query reads valid keys as
 * CQRS_KEYS_SOURCE; withdraw() frees it.  The query sees them as k: k.key is
 * the key as JSON, k.n its number.
 */
extern QueryEnvironment *cqrs_keys_offer(const Jsonb *keys, Relation rel,
										 const CqrsRelation *relation);
extern void cqrs_keys_withdraw(QueryEnvironment *env);

/* The FROM item for the keys. */
#define CQRS_KEYS_SOURCE	"cqrs_keys AS k"

/*
 * A condition that row r of the table has the key k.  Several rows can have
 * it, if their keys have the same JSON.
 */
extern char *cqrs_keys_condition(Relation rel, const CqrsRelation *relation);

/* Select list for the lowest values that the key k can stand for. */
extern char *cqrs_keys_lowest(const CqrsRelation *relation);

/* The primary key's columns, separated by commas. */
extern char *cqrs_keys_columns(const CqrsRelation *relation);

/*
 * A condition that the key of a row is above $1, ..., which have the types of
 * the key's columns.  The index of the primary key can be used for it.
 */
extern char *cqrs_keys_above(Relation rel, const CqrsRelation *relation);

#endif							/* CQRS_KEYS_H */
