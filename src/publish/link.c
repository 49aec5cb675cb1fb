/*-------------------------------------------------------------------------
 *
 * link.c
 *	  The publisher's link to the broker.
 *
 * The link keeps a connection while there is a URL, sends messages from the
 * window, up to cqrs.confirm_window unconfirmed ones, and handles the broker's
 * answers.
 *
 * A failure of the transport is no error, and no message is blamed for it: the
 * connection is closed and all unconfirmed messages are sent again after a
 * delay that doubles up to a limit.  This can send a message twice, with the
 * same message id, and cannot lose one.  The delay is reset when all messages
 * that were in flight at the last failure have been confirmed, and not before:
 * otherwise a cause that ends every connection would act again and again
 * without a pause.
 *
 * If the broker closes the channel because of a message, it does not say which
 * one.  The messages in flight are then sent again one at a time; the message
 * that is alone in flight when the channel is closed again is parked.  If a
 * route is missing or not permitted, or a queue rejects messages, the master
 * is held.
 *
 * link_send.c sends, link_answer.c handles the broker's answers, link_log.c
 * logs.
 *
 * Belongs to the publisher alone; lives in TopMemoryContext.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/guc.h"
#include "base/limits.h"
#include "base/objects.h"
#include "base/timing.h"
#include "publish/link.h"
#include "publish/link_parts.h"
#include "worker/worker.h"

/* The most events that are handled in one turn. */
#define RECEIVE_TURN		500
/* Failed attempts to take the lease before the first log message. */
#define LEASE_ATTEMPTS		4

static bool may_connect(const CqrsLink *link, bool paused);
static void open_connection(CqrsLink *link);
static void report_advice(const CqrsLink *link);
static List *vacant_leases(const CqrsLink *link);
static void close_connection(CqrsLink *link, bool politely);
static void lease_refused(CqrsLink *link, const char *reason);
static bool single_out(CqrsLink *link, CqrsBlame blame, const char *reason);
static long confirm_wait_ms(const CqrsLink *link);

CqrsLink *
cqrs_link_create(const CqrsWorker *worker, CqrsWindow *window, CqrsHolds *holds)
{
	CqrsLink   *link = MemoryContextAllocZero(TopMemoryContext,
											  sizeof(CqrsLink));

	link->worker = worker;
	link->window = window;
	link->holds = holds;
	link->session = cqrs_session_create(cqrs_guc_url, false);
	link->log = cqrs_link_log_create();
	cqrs_link_forget_proven(link);
	return link;
}

void
cqrs_link_identify(CqrsLink *link, const char *identity)
{
	if (link->identity != NULL && strcmp(identity, link->identity) == 0)
		return;
	if (link->session->connection != NULL)
		close_connection(link, true);
	if (link->identity != NULL)
		pfree(link->identity);
	link->identity = MemoryContextStrdup(TopMemoryContext, identity);
	cqrs_session_hurry(link->session);
}

void
cqrs_link_reload(CqrsLink *link)
{
	bool		moved = cqrs_session_reload(link->session);

	cqrs_link_log_reload(link->log);
	cqrs_hold_retry(link->holds);
	cqrs_once_forget(&link->unbound);
	link->wary = false;
	cqrs_link_forget_proven(link);
	if (moved)
		close_connection(link, true);
}

void
cqrs_link_look(CqrsLink *link)
{
	MemoryContext turn = CurrentMemoryContext;
	uint32		calls = cqrs_worker_calls(link->worker);
	bool		installed;
	ListCell   *lc;

	if (calls == link->calls && !link->unchecked)
		return;
	link->calls = calls;
	link->unchecked = false;
	/* A later answer, or a reload, may have removed what was to be looked up. */
	if (link->unbound.texts == NIL)
		return;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	installed = cqrs_objects_get(true) != NULL;
	foreach(lc, link->unbound.texts)
	{
		char	   *cqrs_id = lfirst(lc);

		if (installed && cqrs_objects_has_master(cqrs_id))
			continue;
		link->unbound.texts = foreach_delete_current(link->unbound.texts, lc);
		pfree(cqrs_id);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(turn);
}

void
cqrs_link_turn(CqrsLink *link, bool paused)
{
	if (link->session->connection != NULL)
	{
		if (paused ||
			(link->worker->number != 0 &&
			 cqrs_lane_lease(link->worker) == CQRS_LEASE_LOST))
			close_connection(link, true);
	}
	else if (may_connect(link, paused) &&
			 cqrs_session_wait_ms(link->session) == 0)
		open_connection(link);
}

bool
cqrs_link_receive(CqrsLink *link)
{
	Assert(!IsTransactionState());	/* I16 */
	for (int i = 0; i < RECEIVE_TURN && link->session->connection != NULL; i++)
	{
		CqrsEvent	event;
		CqrsFailure failure;

		link->session->transport->poll(link->session->connection, &event, &failure);
		if (event.kind == CQRS_EVENT_NONE)
			break;
		if (event.kind == CQRS_EVENT_FAILED)
			cqrs_link_connection_failed(link, failure.blame, failure.reason);
		else
			cqrs_link_handle_event(link, &event, &failure);
	}
	if (link->session->connection != NULL && confirm_wait_ms(link) == 0)
		cqrs_link_connection_failed(link, CQRS_BLAME_TRANSPORT,
									"no confirm within \"cqrs.confirm_timeout\"");
	if (link->session->connection != NULL && link->renew &&
		cqrs_window_unconfirmed(link->window) == 0 &&
		link->probe != CQRS_STEP_SENT)
	{
		close_connection(link, true);
		cqrs_session_hurry(link->session);
	}
	cqrs_worker_set_counter(CQRS_COUNTER_HELD, link->holds->nrefused);
	cqrs_worker_set_counter(CQRS_COUNTER_UNBOUND,
							list_length(link->unbound.texts));
	return link->session->connection != NULL &&
		link->session->transport->wait_ms(link->session->connection) == 0;
}

void
cqrs_link_close(CqrsLink *link)
{
	if (link->session->connection != NULL)
		close_connection(link, false);
}

bool
cqrs_link_is_open(const CqrsLink *link)
{
	return link->session->connection != NULL;
}

pgsocket
cqrs_link_socket(const CqrsLink *link, bool *write)
{
	*write = false;
	return link->session->connection != NULL ?
		link->session->transport->socket(link->session->connection, write) : PGINVALID_SOCKET;
}

long
cqrs_link_wait_ms(const CqrsLink *link, bool paused)
{
	bool		write;

	if (link->session->connection == NULL)
		return may_connect(link, paused) ?
			cqrs_session_wait_ms(link->session) : -1;

	if (link->unchecked)
		return 0;
	(void) link->session->transport->socket(link->session->connection, &write);
	if (!link->blocked && !write && cqrs_link_may_send(link) &&
		link->session->transport->can_publish(link->session->connection))
		return 0;
	return cqrs_sooner_ms(link->session->transport->wait_ms(link->session->connection),
						  confirm_wait_ms(link));
}

CqrsPublisherState
cqrs_link_state(const CqrsLink *link)
{
	if (cqrs_guc_url() == NULL)
		return CQRS_STATE_UNCONFIGURED;
	if (link->session->connection == NULL)
		return link->session->leased > 0 ||
			cqrs_lane_lease(link->worker) == CQRS_LEASE_LOST ?
			CQRS_STATE_STANDING_BY : CQRS_STATE_WAITING;
	return link->blocked ? CQRS_STATE_BLOCKED : CQRS_STATE_PUBLISHING;
}

/* Whether to be connected.  Lanes above 0 follow lane 0. */
static bool
may_connect(const CqrsLink *link, bool paused)
{
	return !paused && cqrs_guc_url() != NULL &&
		(link->worker->number == 0 ||
		 cqrs_lane_lease(link->worker) == CQRS_LEASE_HELD);
}

/*
 * Connect with the lease.  If that fails, there is no connection, and the next
 * attempt is scheduled.
 */
static void
open_connection(CqrsLink *link)
{
	CqrsConnectOptions options = {
		.name = "cqrs publisher",
		.lease = cqrs_lane_lease_name(link->identity, link->worker->number),
		.vacant = vacant_leases(link)
	};
	CqrsFailure failure;
	bool		connected;

	cqrs_worker_set_state(CQRS_STATE_CONNECTING);
	pgstat_report_activity(STATE_RUNNING, "connecting to the broker");
	connected = cqrs_session_connect(link->session, &options, &failure);
	cqrs_worker_set_broker(link->session->address);
	pgstat_report_activity(STATE_IDLE, NULL);
	if (!connected)
	{
		if (failure.blame == CQRS_BLAME_LEASE)
			lease_refused(link, failure.reason);
		else
			cqrs_link_connection_failed(link, CQRS_BLAME_TRANSPORT,
										failure.reason);
		return;
	}
	/* Connecting may have taken a while. */
	if (!may_connect(link, false))
	{
		cqrs_session_close(link->session, true);
		return;
	}
	link->blocked = false;
	link->renew = false;
	link->confirmed_at = link->probed_at = GetCurrentTimestamp();
	cqrs_window_rewind(link->window);

	cqrs_worker_set_connected(true);
	report_advice(link);
	cqrs_lane_set_lease(link->worker, CQRS_LEASE_HELD);
	cqrs_link_log_connected(link->log, link->session->url, link->session->exchange);
}

/* What the broker could do better, for cqrs_check(). */
static void
report_advice(const CqrsLink *link)
{
	const CqrsTransport *transport = link->session->transport;
	const char *advice = transport->advice != NULL ?
	transport->advice(link->session->connection) : NULL;

	cqrs_worker_set_advice(advice != NULL ? advice : "");
}

/*
 * The leases that no connection may have when this lane connects: for lane 0,
 * those of all lanes that are not connected here.  A copy of this database may
 * have one, or a lane of ours whose end the broker has not noticed yet.  What
 * such a lane has sent has to arrive first, since its messages may now belong
 * to another lane.
 */
static List *
vacant_leases(const CqrsLink *link)
{
	List	   *leases = NIL;

	if (link->worker->number != 0)
		return NIL;
	for (int i = 1; i < CQRS_MAX_LANES; i++)
	{
		if (!cqrs_worker_is_connected(link->worker, i))
			leases = lappend(leases, cqrs_lane_lease_name(link->identity, i));
	}
	return leases;
}

/*
 * Close the connection; messages that were not confirmed are to be sent again.
 */
static void
close_connection(CqrsLink *link, bool politely)
{
	cqrs_session_close(link->session, politely);
	cqrs_window_rewind(link->window);
	cqrs_hold_probe_lost(link->holds);
	link->probe = CQRS_STEP_NONE;
	link->returned = false;
	cqrs_link_forget_proven(link);
	cqrs_worker_set_connected(false);
	cqrs_lane_set_lease(link->worker, CQRS_LEASE_NONE);
}

/*
 * A copy of this database publishes, or the broker has not noticed yet that
 * our last connection is gone (session.c).  So this is not logged at once.
 */
static void
lease_refused(CqrsLink *link, const char *reason)
{
	int			attempts = cqrs_session_refused(link->session);

	/*
	 * This is longer than the broker takes to notice one lost connection.
	 * Lanes that are cut off one after another can take longer still.  The
	 * lanes that are still connected then close their connections as well,
	 * which repeats messages and loses none.
	 */
	if (attempts > 1 &&
		cqrs_until_after_ms(link->session->leased_at,
							2 * (cqrs_heartbeat_s + 1) * 1000L) == 0)
		cqrs_lane_set_lease(link->worker, CQRS_LEASE_LOST);
	if (attempts == LEASE_ATTEMPTS)
		cqrs_link_log_standby(link->log, reason);
}

/*
 * Close the connection, if there is one, and schedule the next attempt.  It
 * uses the next host if the transport is to blame, and the delay grows with
 * each round of hosts.
 */
void
cqrs_link_connection_failed(CqrsLink *link, CqrsBlame blame, const char *reason)
{
	uint64		sent = cqrs_window_sent_so_far(link->window);
	const CqrsOutgoing *suspect;
	bool		gone;
	bool		resolved;

	if (ShutdownRequestPending)
	{
		cqrs_link_close(link);
		return;
	}
	cqrs_lane_set_lease(link->worker, CQRS_LEASE_NONE);
	suspect = cqrs_window_by_tag(link->window,
								 cqrs_window_first_tag(link->window));

	/*
	 * If its master is held, the rewind takes the message out of the window.
	 */
	gone = suspect != NULL && suspect->withdrawn;
	resolved = single_out(link, blame, reason);
	cqrs_link_log_failure(link->log, reason, link->session->connection != NULL);
	cqrs_link_close(link);
	/* Done after the rewind, when the message is the first unsent one. */
	if (resolved && blame == CQRS_BLAME_MESSAGE && suspect != NULL && !gone)
		cqrs_window_refuse(link->window, reason);

	if (!resolved)
		link->failed_at = Max(link->failed_at, sent);
	cqrs_session_put_off(link->session, blame, resolved);
}

/*
 * The broker may have closed the channel because of a message.  If it can only
 * have meant one message, handle that message and return true, else have
 * messages sent so that there is only one next time.  A broken route is found
 * by its probe.
 */
static bool
single_out(CqrsLink *link, CqrsBlame blame, const char *reason)
{
	int			nsuspects = cqrs_window_unconfirmed(link->window);

	if (blame != CQRS_BLAME_ROUTE && blame != CQRS_BLAME_MESSAGE)
		return false;
	if (nsuspects == 0)
	{
		if (link->probe != CQRS_STEP_SENT || blame != CQRS_BLAME_MESSAGE)
			return false;
		cqrs_hold_refuse(link->holds, reason);
		return true;
	}
	if (blame == CQRS_BLAME_ROUTE && nsuspects > 1)
	{
		bool		news = !link->wary;

		link->wary = true;
		return news;
	}
	if (blame == CQRS_BLAME_MESSAGE && link->probe == CQRS_STEP_SENT)
		nsuspects++;
	if (nsuspects > 1)
	{
		link->suspects_end = cqrs_window_sent_so_far(link->window);
		return false;
	}
	if (blame == CQRS_BLAME_ROUTE)
		cqrs_link_hold_master(link,
							  cqrs_window_by_tag(link->window,
												 cqrs_window_first_tag(link->window)),
							  reason);
	return true;
}

/*
 * Milliseconds that a confirm may still take, 0 if it is overdue, -1: no
 * limit.
 */
static long
confirm_wait_ms(const CqrsLink *link)
{
	long		wait_ms = -1;

	if (cqrs_confirm_timeout_ms == 0 || link->blocked)
		return -1;
	if (cqrs_window_unconfirmed(link->window) > 0)
		wait_ms = cqrs_until_after_ms(link->confirmed_at,
									  cqrs_confirm_timeout_ms);
	if (cqrs_hold_waiting_probe(link->holds) != NULL)
		wait_ms = cqrs_sooner_ms(wait_ms,
								 cqrs_until_after_ms(link->probed_at,
													 cqrs_confirm_timeout_ms));
	return wait_ms;
}
