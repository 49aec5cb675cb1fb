/*-------------------------------------------------------------------------
 *
 * link_answer.c
 *	  Handling of the broker's answers to the publisher.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/guc.h"
#include "base/timing.h"
#include "publish/link.h"
#include "publish/link_parts.h"
#include "publish/message_id.h"
#include "worker/worker.h"

/* The least time between two renewals of a connection that may be stale. */
#define RENEW_INTERVAL_MS	2000

/* Why masters are held. */
#define NACKED		"broker refused a message with basic.nack"
#define RETURNED	"no queue is bound for a message"

static void probe_taken(CqrsLink *link);
static void probe_refused(CqrsLink *link, CqrsBlame blame,
						  const char *reason);
static void messages_confirmed(CqrsLink *link, const CqrsEvent *event);
static void messages_nacked(CqrsLink *link, const CqrsEvent *event);
static void message_returned(CqrsLink *link, const CqrsEvent *event);
static void note_bound(CqrsLink *link, const CqrsEvent *event);
static const char *reason_of(const CqrsEvent *event);
static void tell_held(CqrsLink *link, const char *cqrs_id,
					  const char *reason);

void
cqrs_link_handle_event(CqrsLink *link, const CqrsEvent *event,
					   const CqrsFailure *failure)
{
	switch (event->kind)
	{
		case CQRS_EVENT_ACK:
			if (event->probe)
				probe_taken(link);
			else
				messages_confirmed(link, event);
			break;

		case CQRS_EVENT_NACK:
			if (event->probe)
			{
				cqrs_worker_count(CQRS_COUNTER_NACKED, 1);
				probe_refused(link, CQRS_BLAME_ROUTE, reason_of(event));
			}
			else
				messages_nacked(link, event);
			break;

		case CQRS_EVENT_RETURNED:
			message_returned(link, event);
			break;

		case CQRS_EVENT_DECLARED:
			link->probe = CQRS_STEP_DECLARED;
			break;

		case CQRS_EVENT_REFUSED:
			probe_refused(link, failure->blame, failure->reason);
			break;

		case CQRS_EVENT_BLOCKED:
			link->blocked = true;
			cqrs_link_log_blocked(link->log, event->detail);
			break;

		case CQRS_EVENT_UNBLOCKED:
			link->blocked = false;
			link->confirmed_at = link->probed_at = GetCurrentTimestamp();
			cqrs_link_log_unblocked(link->log);
			break;

		case CQRS_EVENT_NONE:
		case CQRS_EVENT_FAILED:
			break;

		case CQRS_EVENT_SUBSCRIBED:
		case CQRS_EVENT_DELIVERY:
		case CQRS_EVENT_CANCELLED:
			/* A consumer's. */
			Assert(false);
			break;
	}
}

/*
 * The probe's route works, unless the probe was returned and that is a
 * failure.
 */
static void
probe_taken(CqrsLink *link)
{
	if (link->returned)
	{
		probe_refused(link, CQRS_BLAME_ROUTE, RETURNED);
		return;
	}
	cqrs_worker_count(CQRS_COUNTER_CONFIRMED, 1);
	if (!link->holds->probe->returned)
		cqrs_once_remove(&link->unbound, link->holds->probe->cqrs_id);
	cqrs_link_set_proven(link, link->holds->probe);
	cqrs_hold_probe_taken(link->holds);
	link->probe = CQRS_STEP_NONE;
}

/*
 * The broker did not take the probe.  If the message is to blame, it is to be
 * parked; else its master stays held.
 */
static void
probe_refused(CqrsLink *link, CqrsBlame blame, const char *reason)
{
	const char *cqrs_id = link->holds->probing->cqrs_id;

	link->probe = CQRS_STEP_NONE;
	link->returned = false;
	if (blame == CQRS_BLAME_MESSAGE)
	{
		cqrs_hold_refuse(link->holds, reason);
		return;
	}
	cqrs_hold_probe_refused(link->holds);
	tell_held(link, cqrs_id, reason);
}

/* Note an ACK, and what follows from it for the connection. */
static void
messages_confirmed(CqrsLink *link, const CqrsEvent *event)
{
	int			nconfirmed;

	if (link->unbound.texts != NIL)
		note_bound(link, event);
	nconfirmed = cqrs_window_confirm(link->window, event->tag,
									 event->multiple);

	/* A confirm that says nothing new is no progress. */
	if (nconfirmed == 0)
		return;
	cqrs_worker_count(CQRS_COUNTER_CONFIRMED, nconfirmed);
	link->confirmed_at = GetCurrentTimestamp();
	/* Messages that were taken out of the window are never counted as done. */
	if (cqrs_window_bytes(link->window) == 0)
		link->failed_at = link->suspects_end = 0;
	if (cqrs_window_confirmed_total(link->window) >= link->failed_at)
		cqrs_session_recover(link->session);
}

/* Masters of messages that are confirmed and were not returned have a queue. */
static void
note_bound(CqrsLink *link, const CqrsEvent *event)
{
	uint64		tag = event->multiple ? cqrs_window_first_tag(link->window) :
	event->tag;

	for (; tag <= event->tag; tag++)
	{
		const CqrsOutgoing *message = cqrs_window_by_tag(link->window, tag);

		if (message != NULL && !message->returned)
			cqrs_once_remove(&link->unbound, message->cqrs_id);
	}
}

/* Why a message was refused. */
static const char *
reason_of(const CqrsEvent *event)
{
	return event->detail[0] != '\0' ? event->detail : NACKED;
}

/*
 * A queue rejects messages, or has failed.  The messages are not to blame:
 * they are sent again later, in their order, while other masters are
 * published.
 *
 * If the probe was taken and later messages are refused, the channel may be
 * the reason: RabbitMQ 3.10 goes on looking for the leader of a quorum queue
 * on the node where the leader was when the channel first sent there, even if
 * the node is gone.  So the connection is opened anew, after all messages in
 * flight have been answered, because they would be sent twice otherwise.  That
 * is not done often, since a full queue looks the same.
 */
static void
messages_nacked(CqrsLink *link, const CqrsEvent *event)
{
	uint64		first = cqrs_window_first_tag(link->window);

	if (!event->multiple)
		first = event->tag;
	for (uint64 tag = first; tag <= event->tag; tag++)
	{
		CqrsOutgoing *message = cqrs_window_by_tag(link->window, tag);

		if (message == NULL)
			continue;
		cqrs_worker_count(CQRS_COUNTER_NACKED, 1);
		if (!message->withdrawn)
		{
			int			nholds = list_length(link->holds->list);

			cqrs_link_hold_master(link, message, reason_of(event));
			if (list_length(link->holds->list) == nholds &&
				cqrs_until_after_ms(link->renewed_at, RENEW_INTERVAL_MS) == 0)
			{
				link->renew = true;
				link->renewed_at = GetCurrentTimestamp();
			}
		}
	}
	if (cqrs_window_confirm(link->window, event->tag, event->multiple) > 0)
		link->confirmed_at = GetCurrentTimestamp();
}

/* The broker has no queue for a message; the message's confirm follows. */
static void
message_returned(CqrsLink *link, const CqrsEvent *event)
{
	CqrsOutgoing *message = NULL;

	if (event->probe)
		message = link->holds->probe;
	else
	{
		int64		id;

		if (cqrs_message_id_parse(event->detail, link->identity, &id))
			message = cqrs_window_find_sent(link->window, id);
	}
	if (message == NULL)
	{
		cqrs_link_connection_failed(link, CQRS_BLAME_TRANSPORT,
									"could not publish: protocol violation by the broker: return of a message that was not sent");
		return;
	}
	cqrs_worker_count(CQRS_COUNTER_RETURNED, 1);
	if (!event->probe && message->withdrawn)
		return;
	if (cqrs_unroutable == CQRS_UNROUTABLE_KEEP)
	{
		if (event->probe)
			link->returned = true;
		else
			cqrs_link_hold_master(link, message, RETURNED);
	}
	else
	{
		message->returned = true;
		if (!cqrs_once_note(&link->unbound, message->cqrs_id))
			link->unchecked = true;
		cqrs_link_log_returned(link->log, message, link->session->exchange);
	}
}

void
cqrs_link_hold_master(CqrsLink *link, const CqrsOutgoing *message, const char *reason)
{
	char	   *cqrs_id = pstrdup(message->cqrs_id);
	int64		id = message->id;

	bool		news = cqrs_hold_add(link->holds, link->window, cqrs_id, id);

	/* This may free the message. */
	cqrs_window_withdraw(link->window, cqrs_id, id);
	if (news)
		tell_held(link, cqrs_id, reason);
}

/* Show why a master is held, in views and, if it is time, in the log. */
static void
tell_held(CqrsLink *link, const char *cqrs_id, const char *reason)
{
	cqrs_worker_set_error(psprintf("master \"%s\": %s", cqrs_id, reason));
	if (cqrs_hold_should_log(link->holds, cqrs_id,
							 cqrs_link_log_quota(link->log)))
		cqrs_link_log_held(cqrs_id, reason);
}
