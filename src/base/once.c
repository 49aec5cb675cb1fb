/*-------------------------------------------------------------------------
 *
 * once.c
 *	  Texts that are logged once.
 *
 * A broker in trouble would fill the log otherwise.  Their number is bounded,
 * because that of a broker's texts and of masters is not.
 *
 * The texts live in TopMemoryContext.  An error (out of memory) leaves the
 * others as they are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/once.h"
#include "base/strings.h"

/* The number of texts that are remembered. */
#define TEXTS_MAX	100

bool
cqrs_once_note(CqrsOnce *once, const char *text)
{
	MemoryContext caller;

	if (cqrs_strings_have(once->texts, text))
		return true;
	if (list_length(once->texts) >= TEXTS_MAX)
	{
		pfree(linitial(once->texts));
		once->texts = list_delete_first(once->texts);
	}
	caller = MemoryContextSwitchTo(TopMemoryContext);
	once->texts = lappend(once->texts, pstrdup(text));
	MemoryContextSwitchTo(caller);
	return false;
}

void
cqrs_once_remove(CqrsOnce *once, const char *text)
{
	ListCell   *lc = cqrs_strings_find(once->texts, text);

	if (lc == NULL)
		return;
	pfree(lfirst(lc));
	once->texts = list_delete_cell(once->texts, lc);
}

void
cqrs_once_forget(CqrsOnce *once)
{
	list_free_deep(once->texts);
	once->texts = NIL;
}
