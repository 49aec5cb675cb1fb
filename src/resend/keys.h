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
 * An environment in which a query knows valid keys as CQRS_KEYS_SOURCE; and its
 * end.  They are called k, with k.key, the key as JSON, and k.n, its number.
 */
extern QueryEnvironment *cqrs_keys_offer(const Jsonb *keys, Relation rel,
										 const CqrsRelation *relation);
extern void cqrs_keys_withdraw(QueryEnvironment *env);

/* What is to stand after FROM for the keys. */
#define CQRS_KEYS_SOURCE	"cqrs_keys AS k"

/*
 * A condition that row r of the table has the key k.  More than one row can
 * have it, where messages do not carry the difference.
 */
extern char *cqrs_keys_condition(Relation rel, const CqrsRelation *relation);

/* A query's columns for the lowest values that the key k can stand for. */
extern char *cqrs_keys_lowest(const CqrsRelation *relation);

/* The primary key's columns, separated by commas. */
extern char *cqrs_keys_columns(const CqrsRelation *relation);

/*
 * Conditions that the key of a row is above $1, ... of the types of the key's
 * columns; made so that the index of the primary key can be used.
 */
extern char *cqrs_keys_above(Relation rel, const CqrsRelation *relation);

#endif							/* CQRS_KEYS_H */
