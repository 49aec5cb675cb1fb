/*-------------------------------------------------------------------------
 *
 * amqp_publish.c
 *	  The first channel of a connection by AMQP 0-9-1 that publishes.
 *
 * The channel is in confirm mode.  A returned message arrives as a
 * basic.return with its content, in several frames, and then as a confirm.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "broker/amqp.h"
#include "broker/amqp_properties.h"

#define DELIVERY_PERSISTENT 2

/* The properties of an envelope, by their names. */
static const struct
{
	const char *name;
	amqp_flags_t flag;
	Size		offset;
}			text_properties[] =

{
	{"correlation_id", AMQP_BASIC_CORRELATION_ID_FLAG,
	offsetof(amqp_basic_properties_t, correlation_id)}
};

static void set_property(amqp_basic_properties_t *properties,
						 const CqrsProperty *property);
static void handle_method(CqrsConnection *connection,
						  const amqp_method_t *method, const char *action,
						  CqrsEvent *event, CqrsFailure *failure);
static void handle_confirm(CqrsConnection *connection, CqrsEventKind kind,
						   uint64 tag, bool multiple, const char *action,
						   CqrsEvent *event, CqrsFailure *failure);
static void handle_header(CqrsConnection *connection,
						  const amqp_frame_t *frame, const char *action,
						  CqrsEvent *event, CqrsFailure *failure);
static void handle_body(CqrsConnection *connection, Size length,
						const char *action, CqrsEvent *event,
						CqrsFailure *failure);
static void finish_return(CqrsConnection *connection, CqrsEvent *event);

bool
cqrs_amqp_can_publish(CqrsConnection *connection)
{
	/* If the flush fails, poll() is going to notice. */
	return cqrs_amqp_frames_has_room(connection->frames) ||
		(cqrs_amqp_frames_flush(connection->frames) &&
		 cqrs_amqp_frames_has_room(connection->frames));
}

void
cqrs_amqp_publish(CqrsConnection *connection, const CqrsEnvelope *envelope)
{
	cqrs_amqp_put_message(connection, CQRS_AMQP_CHANNEL, envelope);
}

void
cqrs_amqp_put_message(CqrsConnection *connection, int channel,
					  const CqrsEnvelope *envelope)
{
	amqp_basic_publish_t publish = {0};
	amqp_basic_properties_t properties = {0};

	publish.exchange = amqp_cstring_bytes(envelope->exchange);
	publish.routing_key = amqp_cstring_bytes(envelope->routing_key);
	publish.mandatory = 1;
	cqrs_amqp_frames_put_method(connection->frames, channel,
								AMQP_BASIC_PUBLISH_METHOD, &publish);

	properties._flags = AMQP_BASIC_CONTENT_TYPE_FLAG |
		AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG |
		AMQP_BASIC_TIMESTAMP_FLAG;
	properties.content_type = amqp_cstring_bytes("text/plain");
	properties.delivery_mode = DELIVERY_PERSISTENT;
	properties.message_id = amqp_cstring_bytes(envelope->message_id);
	properties.timestamp = timestamptz_to_time_t(envelope->timestamp);
	for (int i = 0; i < envelope->nproperties; i++)
		set_property(&properties, &envelope->properties[i]);
	cqrs_amqp_frames_put_content(connection->frames, channel, &properties,
								 envelope->body, envelope->body_length);
	if (channel == CQRS_AMQP_CHANNEL)
		connection->published++;
}

/* Set a property by its name.  Its text is not copied. */
static void
set_property(amqp_basic_properties_t *properties, const CqrsProperty *property)
{
	for (int i = 0; i < lengthof(text_properties); i++)
	{
		if (strcmp(property->name, text_properties[i].name) != 0)
			continue;
		properties->_flags |= text_properties[i].flag;
		*(amqp_bytes_t *) ((char *) properties + text_properties[i].offset) =
			amqp_cstring_bytes(property->value);
		return;
	}
	Assert(false);				/* a name that the table does not have */
}

void
cqrs_amqp_handle_published(CqrsConnection *connection,
						   const amqp_frame_t *frame, const char *action,
						   CqrsEvent *event, CqrsFailure *failure)
{
	if (frame->frame_type == AMQP_FRAME_METHOD)
		handle_method(connection, &frame->payload.method, action, event,
					  failure);
	else if (frame->frame_type == AMQP_FRAME_HEADER)
		handle_header(connection, frame, action, event, failure);
	else
		handle_body(connection, frame->payload.body_fragment.len, action,
					event, failure);
}

/*
 * Make an event of a method, if it is one that poll() reports.  What must not
 * come now makes a FAILED one, as in handle_header() and handle_body().
 */
static void
handle_method(CqrsConnection *connection, const amqp_method_t *method,
			  const char *action, CqrsEvent *event, CqrsFailure *failure)
{
	if (connection->returning != CQRS_RETURN_NONE &&
		method->id >> 16 == AMQP_BASIC_CLASS)
	{
		cqrs_amqp_violated(event, failure, action, "method within the content of a returned message");
		return;
	}
	switch (method->id)
	{
		case AMQP_BASIC_ACK_METHOD:
			{
				amqp_basic_ack_t *ack = method->decoded;

				handle_confirm(connection, CQRS_EVENT_ACK, ack->delivery_tag,
							   ack->multiple, action, event, failure);
				break;
			}

		case AMQP_BASIC_NACK_METHOD:
			{
				amqp_basic_nack_t *nack = method->decoded;

				handle_confirm(connection, CQRS_EVENT_NACK, nack->delivery_tag,
							   nack->multiple, action, event, failure);
				break;
			}

		case AMQP_BASIC_RETURN_METHOD:
			connection->returning = CQRS_RETURN_HEADER;
			break;

		case AMQP_EXCHANGE_DECLARE_OK_METHOD:
			if (connection->declaring == 0)
				cqrs_amqp_violated(event, failure, action, "unexpected AMQP_EXCHANGE_DECLARE_OK_METHOD");
			else
				connection->declaring--;
			break;

		default:
			event->kind = CQRS_EVENT_FAILED;
			cqrs_amqp_describe_close(failure, action, method);
			break;
	}
}

/*
 * A message that has not been sent completely cannot have been confirmed, and
 * its body must stay.  Tag 0 with "multiple" stands for all before it.
 */
static void
handle_confirm(CqrsConnection *connection, CqrsEventKind kind, uint64 tag,
			   bool multiple, const char *action, CqrsEvent *event,
			   CqrsFailure *failure)
{
	uint64		last = connection->published;

	if (last > 0 &&
		cqrs_amqp_frames_body_channel(connection->frames) == CQRS_AMQP_CHANNEL)
		last--;
	if (tag == 0 && multiple)
		tag = last;
	if (tag == 0 || tag > last)
	{
		cqrs_amqp_violated(event, failure, action, "confirm of a message that was not sent");
		return;
	}
	event->kind = kind;
	event->tag = tag;
	event->multiple = multiple;
}

/* The header of a returned message: it names the message. */
static void
handle_header(CqrsConnection *connection, const amqp_frame_t *frame,
			  const char *action, CqrsEvent *event, CqrsFailure *failure)
{
	amqp_bytes_t message_id;

	if (connection->returning != CQRS_RETURN_HEADER)
	{
		cqrs_amqp_violated(event, failure, action, "content of no message");
		return;
	}
	if (frame->payload.properties.class_id != AMQP_BASIC_CLASS ||
		frame->payload.properties.body_size > MaxAllocSize ||
		!cqrs_amqp_properties_message_id(frame->payload.properties.raw,
										 &message_id))
	{
		cqrs_amqp_violated(event, failure, action, "returned message that is none of ours");
		return;
	}
	cqrs_failure_clean(connection->return_id, sizeof(connection->return_id),
					   message_id.bytes, message_id.len);
	connection->returning = CQRS_RETURN_BODY;
	connection->return_rest = frame->payload.properties.body_size;
	if (connection->return_rest == 0)
		finish_return(connection, event);
}

/* A part of the body of a returned message, which nobody needs. */
static void
handle_body(CqrsConnection *connection, Size length, const char *action,
			CqrsEvent *event, CqrsFailure *failure)
{
	if (connection->returning != CQRS_RETURN_BODY)
		cqrs_amqp_violated(event, failure, action, "content of no message");
	else if (length == 0 || length > connection->return_rest)
		cqrs_amqp_violated(event, failure, action, "returned message of another size than its header says");
	else
	{
		connection->return_rest -= length;
		if (connection->return_rest == 0)
			finish_return(connection, event);
	}
}

/* The message has come back completely: a RETURNED event. */
static void
finish_return(CqrsConnection *connection, CqrsEvent *event)
{
	connection->returning = CQRS_RETURN_NONE;
	event->kind = CQRS_EVENT_RETURNED;
	strlcpy(event->detail, connection->return_id, sizeof(event->detail));
}
