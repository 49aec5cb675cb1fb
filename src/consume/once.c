/*-------------------------------------------------------------------------
 *
 * once.c
 *	  Texts that are logged once.
 *
 * Lives in TopMemoryContext.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "consume/once.h"

/* The number of texts that are remembered. */
#define TEXTS_MAX	100

bool
cqrs_once_note(CqrsOnce *once, const char *text)
{
	MemoryContext caller;
	ListCell   *lc;

	foreach(lc, once->texts)
	{
		if (strcmp(lfirst(lc), text) == 0)
			return true;
	}
	caller = MemoryContextSwitchTo(TopMemoryContext);
	if (list_length(once->texts) >= TEXTS_MAX)
	{
		pfree(linitial(once->texts));
		once->texts = list_delete_first(once->texts);
	}
	once->texts = lappend(once->texts, pstrdup(text));
	MemoryContextSwitchTo(caller);
	return false;
}

void
cqrs_once_forget(CqrsOnce *once)
{
	list_free_deep(once->texts);
	once->texts = NIL;
}
