/*-------------------------------------------------------------------------
 *
 * once.h
 *	  Texts that are logged once.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_ONCE_H
#define CQRS_ONCE_H

#include "postgres.h"

#include "nodes/pg_list.h"

/* Texts that were logged.  Zeroed memory is an empty one. */
typedef struct CqrsOnce
{
	List	   *texts;
} CqrsOnce;

/*
 * Whether a text was noted before; from now on it is.  A bounded number of
 * texts is remembered, the oldest ones are forgotten.
 */
extern bool cqrs_once_note(CqrsOnce *once, const char *text);

/* Forget a text, or all texts. */
extern void cqrs_once_remove(CqrsOnce *once, const char *text);
extern void cqrs_once_forget(CqrsOnce *once);

#endif							/* CQRS_ONCE_H */
