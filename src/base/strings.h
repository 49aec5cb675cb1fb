/*-------------------------------------------------------------------------
 *
 * strings.h
 *	  Lists of strings: of char *, and not of nodes as list_member() wants them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_STRINGS_H
#define CQRS_STRINGS_H

#include "postgres.h"

#include "nodes/pg_list.h"

/* The first cell that has "string"; NULL: none. */
static inline ListCell *
cqrs_strings_find(const List *strings, const char *string)
{
	ListCell   *lc;

	foreach(lc, strings)
	{
		if (strcmp(lfirst(lc), string) == 0)
			return lc;
	}
	return NULL;
}

static inline bool
cqrs_strings_have(const List *strings, const char *string)
{
	return cqrs_strings_find(strings, string) != NULL;
}

#endif							/* CQRS_STRINGS_H */
