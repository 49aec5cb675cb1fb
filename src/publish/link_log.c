/*-------------------------------------------------------------------------
 *
 * link_log.c
 *	  Log messages of the publisher about its connection to the broker.
 *
 * Events that can repeat are logged once, since a broker in trouble would fill
 * the log otherwise: a failure until a connection has lasted, blocking for a
 * time, lost messages until the settings are reloaded.  All together have a
 * quota, because the broker decides what they say, and how many they are.
 *
 * Each failure, logged or not, also becomes the last error of the lane
 * (cqrs.stats, cqrs.lanes).
 *
 * Belongs to the publisher alone; lives in TopMemoryContext.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/once.h"
#include "base/timing.h"
#include "base/url.h"
#include "publish/link_log.h"
#include "worker/worker.h"

/* After a connection that has lasted this long, failures are logged again. */
#define LASTING_MS			60000
/* Each reason to block is logged at most once in this time. */
#define BLOCKED_INTERVAL_MS	60000

struct CqrsLinkLog
{
	bool		tell_connected; /* the next connection is to be logged */
	TimestampTz connected_at;	/* when the last connection was made */
	CqrsOnce	failures;		/* reasons that were logged */
	bool		blocked_logged; /* the current blocking was logged */
	CqrsOnce	blocks;			/* reasons that were logged */
	TimestampTz blocks_since;	/* when they were last forgotten */
	CqrsOnce	unroutable;		/* masters whose lost messages were logged */
	CqrsQuota	quota;			/* of all these messages */
};

CqrsLinkLog *
cqrs_link_log_create(void)
{
	CqrsLinkLog *log = MemoryContextAllocZero(TopMemoryContext,
											  sizeof(CqrsLinkLog));

	log->tell_connected = true;
	log->quota.about = "the broker";
	return log;
}

void
cqrs_link_log_reload(CqrsLinkLog *log)
{
	cqrs_once_forget(&log->failures);
	cqrs_once_forget(&log->unroutable);
	cqrs_quota_renew(&log->quota);
	log->tell_connected = true;
}

void
cqrs_link_log_connected(CqrsLinkLog *log, const char *url,
						const char *exchange)
{
	log->connected_at = GetCurrentTimestamp();
	if (log->tell_connected && cqrs_quota_take(&log->quota))
		ereport(LOG,
				(errmsg("cqrs publisher connected to \"%s\", exchange \"%s\"",
						cqrs_url_mask(url), exchange)));
	log->tell_connected = false;
}

/* All reasons are remembered: hosts can fail in turn, each in its own way. */
void
cqrs_link_log_failure(CqrsLinkLog *log, const char *reason, bool connected)
{
	cqrs_worker_set_error(reason);
	if (connected && cqrs_until_after_ms(log->connected_at, LASTING_MS) == 0)
		cqrs_once_forget(&log->failures);
	if (!cqrs_quota_take_once(&log->quota, &log->failures, reason))
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
	if (!cqrs_quota_take(&log->quota))
		return;
	ereport(LOG,
			(errmsg("cqrs publisher stands by, because another publisher of this database is connected to the broker"),
			 errdetail("The broker says: %s", reason),
			 errhint("If this database is a copy that is to publish as well, call cqrs_adopt().")));
}

/* A broker at its memory limit blocks and unblocks again and again. */
void
cqrs_link_log_blocked(CqrsLinkLog *log, const char *reason)
{
	if (cqrs_until_after_ms(log->blocks_since, BLOCKED_INTERVAL_MS) == 0)
	{
		cqrs_once_forget(&log->blocks);
		log->blocks_since = GetCurrentTimestamp();
	}
	log->blocked_logged = cqrs_quota_take_once(&log->quota, &log->blocks,
											   reason);
	if (log->blocked_logged)
		ereport(LOG,
				(errmsg("cqrs publisher is blocked by the broker: %s",
						reason)));
}

/* The end of blocking is logged if its beginning was. */
void
cqrs_link_log_unblocked(CqrsLinkLog *log)
{
	if (log->blocked_logged && cqrs_quota_take(&log->quota))
		ereport(LOG,
				(errmsg("cqrs publisher is no longer blocked by the broker")));
}

/* The message is lost, as with django-cqrs. */
void
cqrs_link_log_returned(CqrsLinkLog *log, const CqrsOutgoing *message,
					   const char *exchange)
{
	if (!cqrs_quota_take_once(&log->quota, &log->unroutable,
							  message->cqrs_id))
		return;
	ereport(LOG,
			(errmsg("no queue is bound for messages with routing key \"%s\"",
					message->routing_key),
			 errdetail("The broker has dropped the messages; cqrs.stats counts them as returned."),
			 errhint("Start a replica that binds its queue to exchange \"%s\", or set \"cqrs.unroutable\" to \"keep\".",
					 message->exchange != NULL ? message->exchange :
					 exchange)));
}

CqrsQuota *
cqrs_link_log_quota(CqrsLinkLog *log)
{
	return &log->quota;
}

void
cqrs_link_log_held(const char *cqrs_id, const char *reason)
{
	ereport(LOG,
			(errmsg("messages of master \"%s\" are held: %s", cqrs_id, reason),
			 errdetail("The messages wait in the outbox and are tried again; other masters are published.")));
}
