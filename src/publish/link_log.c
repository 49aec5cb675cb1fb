/*-------------------------------------------------------------------------
 *
 * link_log.c
 *	  What the publisher tells of its connection to the broker.
 *
 * Whatever can come again and again is told once, since a broker in trouble
 * would fill the log otherwise: failures until a connection has lasted,
 * blocking for a time, lost messages until the settings are reloaded.  What
 * was told is remembered as text, up to a limit: texts of the broker, and
 * names of masters, could be without number.
 *
 * Failures are the last error of the lane as well (cqrs.stats, cqrs.lanes),
 * each of them, logged or not.
 *
 * Belongs to the publisher alone; lives in TopMemoryContext.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/memutils.h"

#include "base/timing.h"
#include "base/url.h"
#include "publish/link_log.h"
#include "worker/worker.h"

/* After a connection that has lasted so long, failures are told again. */
#define LASTING_MS			60000
/* Each reason to block is told once in this time. */
#define BLOCKED_INTERVAL_MS	60000
/* So many different texts are remembered, of each kind. */
#define TOLD_MAX			100

struct CqrsLinkLog
{
	bool		tell_connected; /* the next connection is to be logged */
	TimestampTz connected_at;	/* when the last connection was made */
	List	   *failures;		/* reasons that were logged, as strings */
	bool		blocked_told;	/* that it blocks now was logged */
	List	   *blocks;			/* reasons that were logged, as strings */
	TimestampTz blocks_since;	/* when the list was last emptied */
	List	   *unroutable;		/* masters whose lost messages were logged */
};

static bool is_told(List **told, const char *what);
static void forget(List **told);

CqrsLinkLog *
cqrs_link_log_create(void)
{
	CqrsLinkLog *log = MemoryContextAllocZero(TopMemoryContext,
											  sizeof(CqrsLinkLog));

	log->tell_connected = true;
	return log;
}

void
cqrs_link_log_reload(CqrsLinkLog *log)
{
	forget(&log->failures);
	forget(&log->unroutable);
	log->tell_connected = true;
}

void
cqrs_link_log_connected(CqrsLinkLog *log, const char *url,
						const char *exchange)
{
	log->connected_at = GetCurrentTimestamp();
	if (log->tell_connected)
		ereport(LOG,
				(errmsg("cqrs publisher connected to \"%s\", exchange \"%s\"",
						cqrs_url_mask(url), exchange)));
	log->tell_connected = false;
}

/* Hosts can fail in different ways, and a connection again and again. */
void
cqrs_link_log_failure(CqrsLinkLog *log, const char *reason, bool connected)
{
	cqrs_worker_set_error(reason);
	if (connected && cqrs_until_after_ms(log->connected_at, LASTING_MS) == 0)
		forget(&log->failures);
	if (is_told(&log->failures, reason))
		return;
	log->tell_connected = true;
	ereport(LOG,
			(errmsg("cqrs publisher has no connection to the broker: %s",
					reason),
			 errdetail("Messages wait in the outbox; attempts to connect go on.")));
}

void
cqrs_link_log_standby(CqrsLinkLog *log, const char *reason)
{
	cqrs_worker_set_error(reason);
	ereport(LOG,
			(errmsg("cqrs publisher stands by, because another publisher of this database is connected to the broker"),
			 errdetail("The broker says: %s", reason),
			 errhint("Where this is a copy that is to publish as well, call cqrs_adopt().")));
}

/* At the limit of its memory, a broker blocks and unblocks again and again. */
void
cqrs_link_log_blocked(CqrsLinkLog *log, const char *reason)
{
	if (cqrs_until_after_ms(log->blocks_since, BLOCKED_INTERVAL_MS) == 0)
	{
		forget(&log->blocks);
		log->blocks_since = GetCurrentTimestamp();
	}
	log->blocked_told = !is_told(&log->blocks, reason);
	if (log->blocked_told)
		ereport(LOG,
				(errmsg("cqrs publisher is blocked by the broker: %s",
						reason)));
}

/* The end is told where the beginning was. */
void
cqrs_link_log_unblocked(CqrsLinkLog *log)
{
	if (log->blocked_told)
		ereport(LOG,
				(errmsg("cqrs publisher is no longer blocked by the broker")));
}

/* As with django-cqrs, the message is gone. */
void
cqrs_link_log_returned(CqrsLinkLog *log, const CqrsOutgoing *message,
					   const char *exchange)
{
	if (is_told(&log->unroutable, message->cqrs_id))
		return;
	ereport(LOG,
			(errmsg("no queue is bound for messages with routing key \"%s\"",
					message->routing_key),
			 errdetail("The broker has dropped them; cqrs.stats counts them as returned."),
			 errhint("Start a replica that binds its queue to exchange \"%s\", or set \"cqrs.unroutable\" to \"keep\".",
					 message->exchange != NULL ? message->exchange :
					 exchange)));
}

void
cqrs_link_log_held(const char *cqrs_id, const char *reason)
{
	ereport(LOG,
			(errmsg("messages of master \"%s\" are held: %s", cqrs_id, reason),
			 errdetail("They wait in the outbox and are tried again; other masters are published.")));
}

/* Whether a text is among those that were told; from now on it is. */
static bool
is_told(List **told, const char *what)
{
	MemoryContext caller;
	ListCell   *lc;

	foreach(lc, *told)
	{
		if (strcmp(lfirst(lc), what) == 0)
			return true;
	}
	caller = MemoryContextSwitchTo(TopMemoryContext);
	if (list_length(*told) >= TOLD_MAX)
	{
		pfree(linitial(*told));
		*told = list_delete_first(*told);
	}
	*told = lappend(*told, pstrdup(what));
	MemoryContextSwitchTo(caller);
	return false;
}

static void
forget(List **told)
{
	list_free_deep(*told);
	*told = NIL;
}
