/*-------------------------------------------------------------------------
 *
 * content.h
 *	  What a message says about a row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_CONTENT_H
#define CQRS_CONTENT_H

#include "postgres.h"

#include "apply/envelope.h"
#include "apply/plan.h"

typedef struct CqrsContent
{
	CqrsPlan   *plan;
	const CqrsIncoming *message;
	/* Where the value of each of mapping.columns[] is, or NULL. */
	const CqrsJsonValue **members;
	bool		unknown_keys;	/* instance_data has keys without a column */
	Datum		keys[INDEX_MAX_KEYS];	/* of mapping.keys[] */
	int64		revision;
	const char *reading;		/* the key that is being read, for errors */
} CqrsContent;

/*
 * Read the key and the revision of the row that "message" is about, and find
 * where its other values are.  Allocates in the current context.
 */
extern void cqrs_content_read_keys(CqrsContent *content);

/*
 * Read the value of a column.  Returns false if the message has none.
 */
extern bool cqrs_content_read(CqrsContent *content, int column, Datum *value,
							  bool *isnull);

/* A value of an integer type. */
extern int64 cqrs_content_integer(Oid type, Datum value);

#endif							/* CQRS_CONTENT_H */
