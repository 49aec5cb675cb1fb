/*-------------------------------------------------------------------------
 *
 * epoch.c
 *	  Which of the copies of a database consumes a queue.
 *
 * The lease lets one copy consume at a time, and says nothing about which one
 * when the original is down.  System identifiers do not tell either, since
 * physical copies share them.  So the broker keeps a number for the queue as a
 * mark, the epoch, and cqrs.consumer keeps an epoch as well.  If the epoch in
 * cqrs.consumer is smaller, another database has consumed since this database
 * did, and messages are missing here.  Then this database stands by until
 * cqrs_consume() is called.
 *
 * Both epochs are raised with each connection, and some time after messages
 * were acknowledged.  The epoch in cqrs.consumer is raised first: after a
 * crash in between, this database is ahead, and goes on.  A copy from before
 * the crash may then raise the mark to the same count.  So an epoch has random
 * bits below its count.  Two epochs that differ only in these bits are of
 * different databases.
 *
 * The connection that consumes reads the mark, because it holds the lease: if
 * it is cut off while it has the mark, nobody else reads the mark before the
 * broker has noticed.  The connection does not write the mark, because it
 * never publishes (transport.h); another connection does.  While the broker
 * blocks publishers, the mark stays behind, and the consumer goes on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "common/pg_prng.h"

#include "base/guc.h"
#include "broker/failure.h"
#include "consume/epoch.h"
#include "consume/seat.h"
#include "consume/topology.h"

#define MARK_BYTES	32
#define RANDOM_BITS	16

static bool is_overtaken(int64 epoch, int64 marked);
static int64 parse(const char *mark);
static bool write_mark(const char *name, int64 epoch, CqrsFailure *failure);

CqrsEpochResult
cqrs_epoch_raise(CqrsSession *session, const char *queue, int64 *epoch,
				 bool taking_over, CqrsFailure *failure)
{
	char	   *name = cqrs_topology_utf8(psprintf("cqrs.owner.%s", queue));
	char		mark[MARK_BYTES];
	const char *problem;
	int64		marked;
	int64		raised;

	if (!session->transport->read_mark(session->connection, name, mark,
									   sizeof(mark), failure))
		return CQRS_EPOCH_FAILED;
	marked = parse(mark);
	if (!taking_over && is_overtaken(*epoch, marked))
		return CQRS_EPOCH_OVERTAKEN;

	raised = (Max(marked, *epoch) >> RANDOM_BITS) + 1;
	raised = raised << RANDOM_BITS |
		(pg_prng_uint32(&pg_global_prng_state) & ((1 << RANDOM_BITS) - 1));
	problem = cqrs_seat_set_epoch(queue, raised, taking_over);
	if (problem != NULL)
	{
		/* Somebody may hold a lock, as cqrs_pause_consumer() does. */
		cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
						 "could not write to cqrs.consumer: %s", problem);
		return CQRS_EPOCH_FAILED;
	}
	*epoch = raised;
	return write_mark(name, raised, failure) ? CQRS_EPOCH_RAISED :
		CQRS_EPOCH_UNANSWERED;
}

/*
 * Whether the mark at the broker is another database's: its count is higher,
 * or is the same with other random bits.
 */
static bool
is_overtaken(int64 epoch, int64 marked)
{
	int64		ahead = (marked >> RANDOM_BITS) - (epoch >> RANDOM_BITS);

	return ahead > 0 || (ahead == 0 && marked != epoch);
}

/* The number of a mark; 0 if it is none, or one that cannot be raised. */
static int64
parse(const char *mark)
{
	char	   *end;
	long long	value;

	errno = 0;
	value = strtoll(mark, &end, 10);
	return errno == 0 && *end == '\0' && value > 0 &&
		value < PG_INT64_MAX / 2 ? value : 0;
}

/*
 * Write the mark, by a connection of its own.  Returns false, with *failure
 * set, if the broker did not take it.
 */
static bool
write_mark(const char *name, int64 epoch, CqrsFailure *failure)
{
	CqrsSession *session = cqrs_session_create(cqrs_guc_consumer_url, false);
	CqrsConnectOptions options = {.name = "cqrs consumer, epoch"};
	char		mark[MARK_BYTES];
	bool		written;

	snprintf(mark, sizeof(mark), INT64_FORMAT, epoch);
	written = cqrs_session_connect(session, &options, failure);
	if (written)
	{
		written = session->transport->write_mark(session->connection, name,
												 mark, failure);
		cqrs_session_close(session, written);
	}
	pfree(session);
	return written;
}
