/*-------------------------------------------------------------------------
 *
 * publisher.c
 *	  The worker that publishes the outbox of a database, or one of several
 *	  that share it (lane.c).
 *
 * A turn (worker.c) has two parts:
 *
 *	  backlog	the database: save the watermark, recycle, read (backlog.c)
 *	  link		the broker: connect, send, receive (link.c)
 *
 * A failure of the transport is no error (link.c).  After an ERROR the process
 * is started again and derives its work from the outbox and the watermark,
 * which is never ahead of the confirms.
 *
 * The window and the reader have memory contexts of their own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "base/guc.h"
#include "base/timing.h"
#include "publish/announce.h"
#include "publish/backlog.h"
#include "publish/hold.h"
#include "publish/lane.h"
#include "publish/link.h"
#include "publish/publisher.h"
#include "publish/state.h"
#include "publish/window.h"
#include "worker/worker.h"

/* When a publisher is asked to end, it waits this long for confirms. */
#define FINISH_MS			1000

typedef struct Publisher
{
	CqrsWindow *window;
	CqrsHolds  *holds;
	CqrsBacklog *backlog;
	CqrsLink   *link;
} Publisher;

static bool publisher_set_up(CqrsWorker *worker);
static void publisher_turn(CqrsWorker *worker);
static bool publisher_listens(CqrsWorker *worker);
static void publisher_wait(CqrsWorker *worker, CqrsWait *wait);
static void publisher_finish(CqrsWorker *worker);
static void leave(int code, Datum worker);

static const CqrsWorkerClass publisher_class = {
	.name = "publisher",
	.count = &cqrs_publishers,
	.states = cqrs_state_names,
	.counters = cqrs_state_counters,
	.wait_event = CQRS_WAIT_PUBLISHER,
	.first_gauge = CQRS_COUNTER_HELD,
	.set_up = publisher_set_up,
	.turn = publisher_turn,
	.listens = publisher_listens,
	.wait = publisher_wait,
	.finish = publisher_finish,
	.recount = cqrs_lane_recount
};

void
cqrs_publisher_init(void)
{
	cqrs_lane_init();
	cqrs_kind_register(CQRS_WORKER_PUBLISHER, &publisher_class);
}

static bool
publisher_set_up(CqrsWorker *worker)
{
	Publisher  *publisher = palloc0(sizeof(Publisher));

	before_shmem_exit(leave, PointerGetDatum(worker));
	publisher->window = cqrs_window_create();
	publisher->holds = cqrs_hold_create();
	publisher->backlog = cqrs_backlog_create(worker, publisher->window,
											 publisher->holds);
	publisher->link = cqrs_link_create(worker, publisher->window,
									   publisher->holds);
	worker->state = publisher;
	return true;
}

/*
 * Called whatever ends the process, as it has no connection and publishes
 * nothing any more.
 */
static void
leave(int code, Datum worker)
{
	const CqrsWorker *publisher = (CqrsWorker *) DatumGetPointer(worker);

	cqrs_lane_set_lease(publisher, CQRS_LEASE_NONE);
	if (publisher->number == 0)
		cqrs_announce_nothing(publisher);
}

static void
publisher_turn(CqrsWorker *worker)
{
	Publisher  *publisher = worker->state;

	if (worker->reloaded)
	{
		cqrs_backlog_reload(publisher->backlog);
		cqrs_link_reload(publisher->link);
	}
	cqrs_backlog_turn(publisher->backlog, cqrs_link_is_open(publisher->link));
	cqrs_link_look(publisher->link);
	cqrs_link_identify(publisher->link,
					   cqrs_backlog_identity(publisher->backlog));
	cqrs_link_turn(publisher->link, cqrs_backlog_paused(publisher->backlog));
	cqrs_link_send(publisher->link);
	cqrs_link_receive(publisher->link);
	cqrs_worker_set_state(cqrs_backlog_restored(publisher->backlog) ?
						  CQRS_STATE_RESTORED :
						  cqrs_backlog_paused(publisher->backlog) ?
						  CQRS_STATE_PAUSED : cqrs_link_state(publisher->link));
	cqrs_backlog_show_progress(publisher->backlog);
}

static bool
publisher_listens(CqrsWorker *worker)
{
	Publisher  *publisher = worker->state;

	return cqrs_backlog_waits_for_commits(publisher->backlog,
										  cqrs_link_is_open(publisher->link));
}

static void
publisher_wait(CqrsWorker *worker, CqrsWait *wait)
{
	Publisher  *publisher = worker->state;
	bool		connected = cqrs_link_is_open(publisher->link);
	bool		paused = cqrs_backlog_paused(publisher->backlog);

	wait->timeout_ms =
		cqrs_sooner_ms(cqrs_backlog_wait_ms(publisher->backlog, connected),
					   cqrs_link_wait_ms(publisher->link, paused));
	wait->socket = cqrs_link_socket(publisher->link, &wait->write);
}

/*
 * Wait a little for the confirms of messages in flight, and save the
 * watermark, so that messages are not sent twice after an orderly end.
 */
static void
publisher_finish(CqrsWorker *worker)
{
	Publisher  *publisher = worker->state;
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   FINISH_MS);
	bool		more = cqrs_link_receive(publisher->link);

	while (cqrs_link_is_open(publisher->link) &&
		   cqrs_until_within_ms(deadline, FINISH_MS) > 0 &&
		   cqrs_window_unconfirmed(publisher->window) > 0)
	{
		bool		write;
		pgsocket	socket = cqrs_link_socket(publisher->link, &write);

		(void) WaitLatchOrSocket(MyLatch,
								 WL_SOCKET_READABLE | WL_TIMEOUT |
								 (write ? WL_SOCKET_WRITEABLE : 0) |
								 WL_EXIT_ON_PM_DEATH,
								 socket, more ? 0 : cqrs_until_within_ms(deadline, FINISH_MS),
								 cqrs_wait_event(CQRS_WAIT_FINISH));
		more = cqrs_link_receive(publisher->link);
	}
	cqrs_backlog_finish(publisher->backlog);
	cqrs_link_close(publisher->link);
}
