/*-------------------------------------------------------------------------
 *
 * intake_log.c
 *	  Log messages of the consumer about its connection to the broker.
 *
 * A failure that repeats is logged once, until a connection has lasted, since
 * a broker in trouble would fill the log otherwise.  Messages of which there
 * can be any number have a quota together, because the broker decides what
 * they say, and how many they are.
 *
 * Belongs to the consumer alone; lives in TopMemoryContext.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/once.h"
#include "base/timing.h"
#include "base/url.h"
#include "consume/consumer_state.h"
#include "consume/intake_log.h"
#include "worker/worker.h"

/* After a connection that has lasted this long, failures are logged again. */
#define LASTING_MS		60000
/* Messages returned this often are in danger of a delivery limit. */
#define HIGH_COUNT		10

struct CqrsIntakeLog
{
	bool		tell_connected; /* the next connection is to be logged */
	TimestampTz connected_at;	/* when the last connection was made */
	CqrsOnce	failures;		/* reasons that were logged */
	CqrsOnce	refused;		/* the same, of exchanges */
	bool		unmarked;		/* logged */
	int64		highest_count;
	CqrsQuota	quota;			/* of those that can be many */
};

CqrsIntakeLog *
cqrs_intake_log_create(void)
{
	CqrsIntakeLog *log = MemoryContextAllocZero(TopMemoryContext,
												sizeof(CqrsIntakeLog));

	log->tell_connected = true;
	log->quota.about = "the broker";
	return log;
}

void
cqrs_intake_log_reload(CqrsIntakeLog *log)
{
	cqrs_once_forget(&log->failures);
	cqrs_once_forget(&log->refused);
	log->unmarked = false;
	cqrs_quota_renew(&log->quota);
	log->tell_connected = true;
}

void
cqrs_intake_log_connected(CqrsIntakeLog *log, const char *url,
						  const char *queue)
{
	log->connected_at = GetCurrentTimestamp();
	if (log->tell_connected && cqrs_quota_take(&log->quota))
		ereport(LOG,
				(errmsg("cqrs consumer connected to \"%s\", queue \"%s\"",
						cqrs_url_mask(url), queue)));
	log->tell_connected = false;
}

void
cqrs_intake_log_failure(CqrsIntakeLog *log, const char *reason)
{
	cqrs_worker_set_error(reason);
	if (log->connected_at != 0 &&
		cqrs_until_after_ms(log->connected_at, LASTING_MS) == 0)
		cqrs_once_forget(&log->failures);
	log->connected_at = 0;
	if (!cqrs_quota_take_once(&log->quota, &log->failures, reason))
		return;
	log->tell_connected = true;
	ereport(LOG,
			(errmsg("cqrs consumer has no connection to the broker: %s",
					reason),
			 errdetail("Messages wait in the queue; attempts to connect go on.")));
}

void
cqrs_intake_log_standby(CqrsIntakeLog *log, const char *queue,
						const char *reason)
{
	if (!cqrs_quota_take(&log->quota))
		return;
	ereport(LOG,
			(errmsg("cqrs consumer stands by, because another consumer has the lease of queue \"%s\"",
					queue),
			 errdetail("The broker says: %s", reason)));
}

void
cqrs_intake_log_overtaken(CqrsIntakeLog *log, const char *queue)
{
	cqrs_worker_set_error(psprintf("another database has consumed queue \"%s\" since this database did",
								   queue));
	ereport(LOG,
			(errmsg("cqrs consumer stands by, because another database has consumed queue \"%s\" since this database did",
					queue),
			 errdetail("This database may be a copy, or was restored to an earlier state. Messages that the other database has consumed are missing here."),
			 errhint("If this database is to consume the queue, call cqrs_consume().")));
}

void
cqrs_intake_log_copied(CqrsIntakeLog *log, const char *queue)
{
	cqrs_worker_set_error(psprintf("this database is a copy of the database that consumes queue \"%s\"",
								   queue));
	ereport(LOG,
			(errmsg("cqrs consumer stands by, because this database is a copy of the database that consumes queue \"%s\"",
					queue),
			 errdetail("This database was created from the other database as its template."),
			 errhint("If this database is to consume the queue in place of the other database, call cqrs_consume().")));
}

void
cqrs_intake_log_unmarked(CqrsIntakeLog *log, const char *reason)
{
	cqrs_worker_set_error(reason);
	if (!log->unmarked)
		ereport(LOG,
				(errmsg("cqrs consumer could not leave its mark at the broker: %s",
						reason),
				 errdetail("Until the mark is written, a copy of this database could consume the queue in place of this database.")));
	log->unmarked = true;
}

void
cqrs_intake_log_cancelled(CqrsIntakeLog *log, const char *queue,
						  const char *reason)
{
	cqrs_worker_set_error(psprintf("the broker has ended the consumption of queue \"%s\": %s",
								   queue, reason));
	if (!cqrs_quota_take(&log->quota))
		return;
	ereport(LOG,
			(errmsg("the broker has ended the consumption of queue \"%s\": %s",
					queue, reason),
			 errdetail("The consumer declares the queue again. Messages that were in the queue may be lost."),
			 errhint("Compare the replicas with their masters, or call cqrs_sync_all() at the masters.")));
}

void
cqrs_intake_log_refused(CqrsIntakeLog *log, const char *exchange,
						const char *reason)
{
	cqrs_worker_set_error(reason);
	if (cqrs_quota_take_once(&log->quota, &log->refused, reason))
		ereport(LOG,
				(errmsg("the queue cannot be bound to exchange \"%s\": %s",
						exchange, reason),
				 errdetail("Replicas with this exchange get no messages. The consumer tries again each minute.")));
}

void
cqrs_intake_log_count(CqrsIntakeLog *log, int64 delivery_count)
{
	if (delivery_count <= log->highest_count)
		return;
	cqrs_worker_set_counter(CQRS_CONSUMED_HIGHEST_COUNT, delivery_count);
	if (delivery_count >= HIGH_COUNT && log->highest_count < HIGH_COUNT)
		ereport(LOG,
				(errmsg("a message was returned to its queue " INT64_FORMAT " times",
						delivery_count),
				 errdetail("A quorum queue with a delivery limit drops messages that are returned more often."),
				 errhint("Find out what ends the consumer's connections.")));
	log->highest_count = delivery_count;
}
