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

#include "master/relation.h"

/*
 * Whether "keys" is an array of keys as messages have them: values, or arrays
 * of as many values as the primary key has columns.
 */
extern bool cqrs_keys_are_valid(const Jsonb *keys,
								const CqrsRelation *relation);

/*
 * What is to stand after FROM for the keys in the array $1: columns e.key, the
 * key as JSON, e.n, its number, and those of the primary key in k.
 */
extern char *cqrs_keys_source(Relation rel, const CqrsRelation *relation);

/* A condition that row r of the table has the key k. */
extern char *cqrs_keys_condition(Relation rel, const CqrsRelation *relation);

/* The primary key's columns, separated by commas. */
extern char *cqrs_keys_columns(const CqrsRelation *relation);

/*
 * Conditions that the key of a row is above $1, ... of the types of the key's
 * columns; made so that the index of the primary key can be used.
 */
extern char *cqrs_keys_above(Relation rel, const CqrsRelation *relation);

#endif							/* CQRS_KEYS_H */
