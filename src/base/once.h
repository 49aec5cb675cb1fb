/*-------------------------------------------------------------------------
 *
 * once.h
 *	  Texts that are logged once, and how much is logged in all.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_ONCE_H
#define CQRS_ONCE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

/* Texts that were logged.  Zeroed memory is an empty one. */
typedef struct CqrsOnce
{
	List	   *texts;
} CqrsOnce;

/*
 * How many log messages about something are written.  Zeroed memory is a new
 * one; "about" has to be set then, for example to "the broker".
 */
typedef struct CqrsQuota
{
	const char *about;
	TimestampTz began_at;		/* the present minute */
	int			written;		/* in it */
	int64		left_out;		/* in it */
} CqrsQuota;

/*
 * Whether a text was noted before; from now on it is.  A bounded number of
 * texts is remembered, the oldest ones are forgotten.
 */
extern bool cqrs_once_note(CqrsOnce *once, const char *text);

/* Forget a text, or all texts. */
extern void cqrs_once_remove(CqrsOnce *once, const char *text);
extern void cqrs_once_forget(CqrsOnce *once);

/*
 * Whether another message may be logged: at most 60 in a minute, whatever they
 * say.  A message that must not be logged is counted.  The log says when
 * messages begin to be left out, and before the next message or at renew() how
 * many they were.
 */
extern bool cqrs_quota_take(CqrsQuota *quota);

/*
 * Whether a message is to be logged of which "text" says what is new in it: the
 * text was not noted before, and the quota allows the message.  Then the text
 * is noted.
 */
extern bool cqrs_quota_take_once(CqrsQuota *quota, CqrsOnce *once,
								 const char *text);

/* Begin anew, when somebody looks into the log: the settings have changed. */
extern void cqrs_quota_renew(CqrsQuota *quota);

#endif							/* CQRS_ONCE_H */
