/*-------------------------------------------------------------------------
 *
 * amqp_probe.c
 *	  The second channel of a connection by AMQP 0-9-1, for probes.
 *
 * If an exchange is missing, of another type or not permitted, the broker
 * closes the channel and drops all messages in flight on it.  So a route that
 * is not known to work is tried on a channel that carries one message at a
 * time and nothing else.  If the broker closes that channel, the next probe
 * opens it anew; the channel of the messages is not affected.
 *
 * At most one message is in flight.  So the tag of a confirm is not needed,
 * nor is the id of a returned message, whose content is ignored.  The message
 * is sent after its exchange has been declared, since the body of a large
 * message must not be in flight when the broker closes the channel because of
 * the exchange.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "broker/amqp.h"

static void open_channel(CqrsConnection *connection);
static void probe_ended(CqrsConnection *connection, CqrsEventKind kind,
						CqrsEvent *event);
static void channel_closed(CqrsConnection *connection,
						   const amqp_method_t *method, CqrsEvent *event,
						   CqrsFailure *failure);
static void violated(const amqp_method_t *method, CqrsEvent *event,
					 CqrsFailure *failure);

bool
cqrs_amqp_can_probe(CqrsConnection *connection)
{
	return (connection->probe == CQRS_PROBE_CLOSED ||
			connection->probe == CQRS_PROBE_IDLE) &&
		cqrs_amqp_frames_has_room(connection->frames);
}

void
cqrs_amqp_declare(CqrsConnection *connection, const char *exchange)
{
	if (connection->probe == CQRS_PROBE_CLOSED)
		open_channel(connection);
	cqrs_amqp_declare_exchange(connection, CQRS_AMQP_SIDE_CHANNEL, exchange);
	connection->probe = CQRS_PROBE_DECLARING;
}

void
cqrs_amqp_probe(CqrsConnection *connection, const CqrsEnvelope *envelope)
{
	Assert(connection->probe == CQRS_PROBE_DECLARED);
	cqrs_amqp_put_message(connection, CQRS_AMQP_SIDE_CHANNEL, envelope);
	connection->probe = CQRS_PROBE_SENT;
}

/*
 * These answers are not waited for: they arrive before the one to the
 * declaration.
 */
static void
open_channel(CqrsConnection *connection)
{
	amqp_channel_open_t open = {0};
	amqp_confirm_select_t select = {0};

	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_SIDE_CHANNEL,
								AMQP_CHANNEL_OPEN_METHOD, &open);
	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_SIDE_CHANNEL,
								AMQP_CONFIRM_SELECT_METHOD, &select);
}

void
cqrs_amqp_handle_probe(CqrsConnection *connection, const amqp_frame_t *frame,
					   CqrsEvent *event, CqrsFailure *failure)
{
	const amqp_method_t *method = &frame->payload.method;
	CqrsProbeState state = connection->probe;
	bool		expected = false;

	/* It is content of a returned message. */
	if (frame->frame_type != AMQP_FRAME_METHOD)
		return;

	/*
	 * A message that has not been sent completely cannot be answered, and its
	 * body has to stay.
	 */
	if (cqrs_amqp_frames_body_channel(connection->frames) ==
		CQRS_AMQP_SIDE_CHANNEL)
	{
		violated(method, event, failure);
		return;
	}
	switch (method->id)
	{
		case AMQP_CHANNEL_OPEN_OK_METHOD:
		case AMQP_CONFIRM_SELECT_OK_METHOD:
			expected = state == CQRS_PROBE_DECLARING;
			break;

		case AMQP_EXCHANGE_DECLARE_OK_METHOD:
			expected = state == CQRS_PROBE_DECLARING;
			connection->probe = CQRS_PROBE_DECLARED;
			event->kind = CQRS_EVENT_DECLARED;
			break;

		case AMQP_BASIC_RETURN_METHOD:
			expected = state == CQRS_PROBE_SENT;
			event->kind = CQRS_EVENT_RETURNED;
			event->probe = true;
			break;

		case AMQP_BASIC_ACK_METHOD:
		case AMQP_BASIC_NACK_METHOD:
			expected = state == CQRS_PROBE_SENT;
			probe_ended(connection, method->id == AMQP_BASIC_ACK_METHOD ?
						CQRS_EVENT_ACK : CQRS_EVENT_NACK, event);
			break;

		case AMQP_CHANNEL_CLOSE_METHOD:
			expected = state != CQRS_PROBE_CLOSED &&
				state != CQRS_PROBE_CROSSING;
			if (expected)
				channel_closed(connection, method, event, failure);
			break;

		case AMQP_CHANNEL_CLOSE_OK_METHOD:
			expected = state == CQRS_PROBE_CLOSING ||
				state == CQRS_PROBE_CROSSING;
			connection->probe = CQRS_PROBE_CLOSED;
			break;

		default:
			break;
	}
	if (!expected)
		violated(method, event, failure);
}

/*
 * The message is confirmed.  After a nack the channel is closed: RabbitMQ 3.10
 * goes on looking for the leader of a quorum queue on the node where the
 * leader was when the channel first sent there, even if the node is gone.
 */
static void
probe_ended(CqrsConnection *connection, CqrsEventKind kind, CqrsEvent *event)
{
	event->kind = kind;
	event->probe = true;
	connection->probe = CQRS_PROBE_IDLE;
	if (kind == CQRS_EVENT_NACK)
	{
		amqp_channel_close_t close = {0};

		close.reply_code = AMQP_REPLY_SUCCESS;
		close.reply_text = amqp_cstring_bytes("goodbye");
		cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_SIDE_CHANNEL,
									AMQP_CHANNEL_CLOSE_METHOD, &close);
		connection->probe = CQRS_PROBE_CLOSING;
	}
}

/*
 * If both sides close at the same time, each answers the other once, and the
 * broker's close-ok follows.
 */
static void
channel_closed(CqrsConnection *connection, const amqp_method_t *method,
			   CqrsEvent *event, CqrsFailure *failure)
{
	amqp_channel_close_ok_t close_ok = {0};

	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_SIDE_CHANNEL,
								AMQP_CHANNEL_CLOSE_OK_METHOD, &close_ok);
	if (connection->probe == CQRS_PROBE_CLOSING)
	{
		connection->probe = CQRS_PROBE_CROSSING;
		return;
	}
	if (connection->probe != CQRS_PROBE_IDLE)
	{
		event->kind = CQRS_EVENT_REFUSED;
		cqrs_amqp_describe_close(failure, "could not publish", method);
	}
	connection->probe = CQRS_PROBE_CLOSED;
}

/* A FAILED event: this method must not come now. */
static void
violated(const amqp_method_t *method, CqrsEvent *event, CqrsFailure *failure)
{
	event->kind = CQRS_EVENT_FAILED;
	cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
					 "could not publish: unexpected method %u.%u on channel %d from the broker",
					 (unsigned int) method->id >> 16,
					 (unsigned int) method->id & 0xFFFF,
					 CQRS_AMQP_SIDE_CHANNEL);
}
