/*-------------------------------------------------------------------------
 *
 * link_send.c
 *	  Sending of messages and probes to the broker.
 *
 * Only messages whose route is proven are published.  A route is an exchange.
 * The connection's own exchange is proven when the connection is made, any
 * other exchange when a probe to it has been taken on this connection.  If a
 * message's route is not proven, its master is held (hold.c) and the master's
 * first message is sent as a probe, so that a route that is missing or not
 * permitted ends nothing but its probe.  A proof can turn out wrong: the
 * exchange is deleted, or the broker permits only some routing keys.  If the
 * broker closes the channel for that reason, a route is proven together with
 * its routing key only ("wary"), until the configuration is reloaded.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/guc.h"
#include "base/limits.h"
#include "base/timing.h"
#include "publish/link.h"
#include "publish/link_parts.h"
#include "publish/message_id.h"
#include "worker/worker.h"

/* The most messages that are sent before confirms are read. */
#define SEND_TURN			200
/* An exchange and a routing key, and a length. */
#define ROUTE_BYTES			(2 * CQRS_SHORTSTR_BYTES + 6)
/*
 * The most proven routes that are remembered.  Owners of tables choose exchanges
 * and routing keys, so their number has no limit of its own.
 */
#define MAX_PROVEN			10000

static bool is_suspecting(const CqrsLink *link);
static bool may_send(const CqrsLink *link);
static const char *exchange_of(const CqrsLink *link,
							   const CqrsOutgoing *message);
static void await_proof(CqrsLink *link, const CqrsOutgoing *message);
static bool may_probe(const CqrsLink *link);
static void send_probe(CqrsLink *link);
static CqrsEnvelope make_envelope(CqrsLink *link, CqrsOutgoing *message);
static bool is_proven(const CqrsLink *link, const CqrsOutgoing *message);
static void route_of(const CqrsLink *link, const CqrsOutgoing *message,
					 char *route);

void
cqrs_link_send(CqrsLink *link)
{
	Assert(!IsTransactionState());	/* I16 */
	if (link->session->connection == NULL || link->blocked)
		return;

	if (cqrs_window_unconfirmed(link->window) == 0)
		link->confirmed_at = GetCurrentTimestamp();
	if (cqrs_hold_waiting_probe(link->holds) == NULL)
		link->probed_at = GetCurrentTimestamp();
	if (may_probe(link))
		send_probe(link);
	for (int i = 0; i < SEND_TURN; i++)
	{
		CqrsOutgoing *message = cqrs_window_next_unsent(link->window);
		CqrsEnvelope envelope;

		if (!may_send(link) ||
			!link->session->transport->can_publish(link->session->connection))
			break;
		if (!is_proven(link, message))
		{
			await_proof(link, message);
			continue;
		}
		envelope = make_envelope(link, message);
		link->session->transport->publish(link->session->connection, &envelope);
		cqrs_window_sent(link->window);
		cqrs_worker_count(CQRS_COUNTER_PUBLISHED, 1);
	}
}

bool
cqrs_link_may_send(const CqrsLink *link)
{
	return may_send(link) || may_probe(link);
}

/* Whether messages are sent one at a time. */
static bool
is_suspecting(const CqrsLink *link)
{
	return cqrs_window_confirmed_total(link->window) < link->suspects_end;
}

/* Whether there is a message that may be sent now. */
static bool
may_send(const CqrsLink *link)
{
	int			window = is_suspecting(link) ?
	(link->probe == CQRS_STEP_SENT ? 0 : 1) : cqrs_confirm_window;

	return !link->renew && cqrs_window_unsent(link->window) > 0 &&
		cqrs_window_unconfirmed(link->window) < window;
}

/* The exchange that a message goes to. */
static const char *
exchange_of(const CqrsLink *link, const CqrsOutgoing *message)
{
	return message->exchange != NULL ? message->exchange : link->session->exchange;
}

/* Have a probe sent before this and other messages of its master. */
static void
await_proof(CqrsLink *link, const CqrsOutgoing *message)
{
	char	   *cqrs_id = pstrdup(message->cqrs_id);
	int64		id = message->id;

	/* This frees the message. */
	cqrs_hold_add_unproven(link->holds, link->window, cqrs_id, id);
	cqrs_window_withdraw(link->window, cqrs_id, id);
}

/* Whether the next step of a probe can be made. */
static bool
may_probe(const CqrsLink *link)
{
	if (cqrs_hold_waiting_probe(link->holds) == NULL || link->renew)
		return false;
	switch (link->probe)
	{
		case CQRS_STEP_NONE:
			return link->session->transport->can_probe(link->session->connection);
		case CQRS_STEP_DECLARED:
			return link->session->transport->can_publish(link->session->connection) &&
				!(is_suspecting(link) &&
				  cqrs_window_unconfirmed(link->window) > 0);
		case CQRS_STEP_DECLARING:
		case CQRS_STEP_SENT:
			break;
	}
	return false;
}

/*
 * The next step of the probe that waits, if may_probe(): declare its exchange,
 * then send it.
 */
static void
send_probe(CqrsLink *link)
{
	CqrsOutgoing *message = cqrs_hold_waiting_probe(link->holds);

	link->probed_at = GetCurrentTimestamp();
	if (link->probe == CQRS_STEP_NONE)
	{
		link->session->transport->declare(link->session->connection,
										  exchange_of(link, message));
		link->probe = CQRS_STEP_DECLARING;
	}
	else
	{
		CqrsEnvelope envelope = make_envelope(link, message);

		link->session->transport->probe(link->session->connection, &envelope);
		link->probe = CQRS_STEP_SENT;
		cqrs_worker_count(CQRS_COUNTER_PUBLISHED, 1);
	}
}

/*
 * The message as the transport takes it, with the present time in it.  Texts
 * stay the message's, apart from the id.
 */
static CqrsEnvelope
make_envelope(CqrsLink *link, CqrsOutgoing *message)
{
	CqrsEnvelope envelope;

	cqrs_window_stamp(message);
	envelope.exchange = exchange_of(link, message);
	envelope.routing_key = message->routing_key;
	envelope.message_id = cqrs_message_id_make(link->identity, message->id);
	envelope.properties = message->properties;
	envelope.nproperties = message->nproperties;
	envelope.timestamp = message->committed_at;
	envelope.body = message->body;
	envelope.body_length = message->body_length;
	return envelope;
}

/* Whether the route of a message needs no probe. */
static bool
is_proven(const CqrsLink *link, const CqrsOutgoing *message)
{
	char		route[ROUTE_BYTES];

	if (!link->wary &&
		strcmp(exchange_of(link, message), link->session->exchange) == 0)
		return true;
	route_of(link, message, route);
	return hash_search(link->proven, route, HASH_FIND, NULL) != NULL;
}

/* The route of a message, as a key of the proven routes. */
static void
route_of(const CqrsLink *link, const CqrsOutgoing *message, char *route)
{
	const char *exchange = exchange_of(link, message);

	(void) snprintf(route, ROUTE_BYTES, "%zu %s%s", strlen(exchange), exchange,
					link->wary ? message->routing_key : "");
}

void
cqrs_link_set_proven(CqrsLink *link, const CqrsOutgoing *message)
{
	char		route[ROUTE_BYTES];

	/* Whatever is forgotten costs a probe. */
	if (hash_get_num_entries(link->proven) >= MAX_PROVEN)
		cqrs_link_forget_proven(link);
	route_of(link, message, route);
	(void) hash_search(link->proven, route, HASH_ENTER, NULL);
}

void
cqrs_link_forget_proven(CqrsLink *link)
{
	HASHCTL		control = {0};

	if (link->proven != NULL && hash_get_num_entries(link->proven) == 0)
		return;
	hash_destroy(link->proven);
	control.keysize = ROUTE_BYTES;
	control.entrysize = ROUTE_BYTES;
	link->proven = hash_create("cqrs proven routes", 16, &control,
							   HASH_ELEM | HASH_STRINGS);
}
