/*-------------------------------------------------------------------------
 *
 * once.c
 *	  Texts that are logged once, and how much is logged in all.
 *
 * A broker in trouble would fill the log otherwise.  Their number is bounded,
 * because that of a broker's texts and of masters is not.  So a broker that has
 * ever new texts could fill the log all the same: a quota bounds the number of
 * messages, whatever they say.
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
#include "base/timing.h"

/* The number of texts that are remembered. */
#define TEXTS_MAX	100
/* The most log messages of a quota in a time. */
#define QUOTA_MESSAGES		60
#define QUOTA_INTERVAL_MS	60000

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

bool
cqrs_quota_take(CqrsQuota *quota)
{
	if (cqrs_until_after_ms(quota->began_at, QUOTA_INTERVAL_MS) == 0)
		cqrs_quota_renew(quota);
	if (quota->written < QUOTA_MESSAGES)
	{
		quota->written++;
		return true;
	}
	if (quota->left_out++ == 0)
		ereport(LOG,
				(errmsg("further log messages about %s are left out for up to a minute",
						quota->about),
				 errdetail("%d messages were logged within a minute.",
						   QUOTA_MESSAGES)));
	return false;
}

bool
cqrs_quota_take_once(CqrsQuota *quota, CqrsOnce *once, const char *text)
{
	if (cqrs_once_note(once, text))
		return false;
	if (cqrs_quota_take(quota))
		return true;
	/* It was not logged yet. */
	cqrs_once_remove(once, text);
	return false;
}

void
cqrs_quota_renew(CqrsQuota *quota)
{
	int64		left_out = quota->left_out;

	quota->began_at = GetCurrentTimestamp();
	quota->written = 0;
	quota->left_out = 0;
	if (left_out > 0)
		ereport(LOG,
				(errmsg_plural(INT64_FORMAT " log message about %s was left out",
							   INT64_FORMAT " log messages about %s were left out",
							   (unsigned long) left_out, left_out,
							   quota->about)));
}
