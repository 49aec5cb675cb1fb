/*-------------------------------------------------------------------------
 *
 * utc_literal.h
 *	  Literals with timestamps in them, which become UTC.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_UTC_LITERAL_H
#define CQRS_UTC_LITERAL_H

#include "postgres.h"

/* How literals of a type with timestamps in it are rewritten. */
typedef struct CqrsUtcLiteral CqrsUtcLiteral;

/*
 * Prepare to rewrite literals of an array, range or composite type, in the
 * current context.  NULL: no timestamp without time zone is in the type.
 */
extern CqrsUtcLiteral *cqrs_utc_literal_prepare(Oid type);

/*
 * A literal in which the timestamps are in UTC, as their offsets say.  The
 * caller has pinned TimeZone and DateStyle.
 */
extern char *cqrs_utc_literal(CqrsUtcLiteral *literal, char *text);

#endif							/* CQRS_UTC_LITERAL_H */
