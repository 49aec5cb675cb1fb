/*-------------------------------------------------------------------------
 *
 * serialize.h
 *	  Rows as the JSON of messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_SERIALIZE_H
#define CQRS_SERIALIZE_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "master/relation.h"
#include "master/row.h"

/* Whether the text of any column of a table's masters depends on settings. */
extern bool cqrs_serialize_uses_settings(Relation rel,
										 const CqrsRelation *relation);

/*
 * Pin the settings that the text form of values depends on, for as long as
 * the returned nesting level of settings lasts (AtEOXact_GUC(true, level)).
 */
extern int	cqrs_serialize_pin_settings(void);

/*
 * The same for what the meaning of users' expressions and functions depends on,
 * too: sync_when means the same to all writers.
 */
extern int	cqrs_serialize_pin_all_settings(void);

/* Append the published fields of a row as an object. */
extern void cqrs_serialize_row(StringInfo out, Relation rel,
							   CqrsMaster *master, const CqrsRow *row);

/*
 * Append the previous values of the tracked fields that differ between
 * "before" and "after", as an object.  If "before" is NULL (the row is new),
 * append null for each tracked field that is not null.
 */
extern void cqrs_serialize_previous(StringInfo out, Relation rel,
									CqrsMaster *master, const CqrsRow *before,
									const CqrsRow *after);

/*
 * Append a row as an object that json_populate_record() reads back, whatever casts
 * to JSON its types have.
 */
extern void cqrs_serialize_readable(StringInfo out, TupleDesc desc,
									Datum row);

/* Append the primary key: its value, or an array if it has several columns. */
extern void cqrs_serialize_key(StringInfo out, Relation rel,
							   const CqrsRelation *relation,
							   const CqrsRow *row);

#endif							/* CQRS_SERIALIZE_H */
