/*-------------------------------------------------------------------------
 *
 * amqp_handshake.c
 *	  The beginning of a connection by AMQP 0-9-1.
 *
 * Each step sends a method and waits for its answer, until the deadline of the
 * connection.  A shutdown request ends the wait early (socket.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "broker/amqp.h"
#include "broker/amqp_properties.h"

/* As in RabbitMQ's clients; the user's name is the same. */
#define DEFAULT_PASSWORD	"guest"
/* Quorum queues of RabbitMQ drop messages by default from this version on. */
#define LIMITING_VERSION	4000
/* An exclusive queue outlives its node from this one on: amqp_token.c. */
#define TOKENS_VERSION		4002

static void put_start_ok(CqrsConnection *connection,
						 const CqrsConnectOptions *options);
static int	channels_needed(const CqrsConnection *connection);
static bool has_channels(const CqrsConnection *connection,
						 const amqp_connection_tune_t *offer,
						 CqrsFailure *failure);
static bool tune(CqrsConnection *connection, const amqp_connection_tune_t *offer,
				 int heartbeat_s, CqrsFailure *failure);

bool
cqrs_amqp_log_in(CqrsConnection *connection,
				 const CqrsConnectOptions *options, CqrsFailure *failure)
{
	CqrsUrl		url = cqrs_transport_complete(&cqrs_transport_amqp, options->url);
	amqp_frame_t frame;
	amqp_connection_open_t open = {0};
	int			version;

	cqrs_amqp_frames_put_protocol(connection->frames);
	if (!cqrs_amqp_await(connection, 0, AMQP_CONNECTION_START_METHOD, "could not log in", &frame,
						 failure))
		return false;
	version = cqrs_amqp_properties_version(frame.payload.method.decoded);
	connection->limits_deliveries = version >= LIMITING_VERSION;
	connection->has_tokens = version >= TOKENS_VERSION;

	put_start_ok(connection, options);
	if (!cqrs_amqp_await(connection, 0, AMQP_CONNECTION_TUNE_METHOD, "could not log in", &frame,
						 failure))
		return false;
	cqrs_amqp_frames_forget(connection->frames);
	if (!has_channels(connection, frame.payload.method.decoded, failure) ||
		!tune(connection, frame.payload.method.decoded,
			  options->heartbeat_s, failure))
		return false;

	open.virtual_host = amqp_cstring_bytes(url.path);
	cqrs_amqp_frames_put_method(connection->frames, 0,
								AMQP_CONNECTION_OPEN_METHOD,
								&open);
	return cqrs_amqp_await(connection, 0, AMQP_CONNECTION_OPEN_OK_METHOD, "could not log in", &frame,
						   failure);
}

/* Put the login into the output, with what this client is capable of. */
static void
put_start_ok(CqrsConnection *connection, const CqrsConnectOptions *options)
{
	const CqrsUrl *url = options->url;
	const char *user = url->user != NULL ? url->user :
	cqrs_transport_amqp.defaults.user;
	const char *password = url->password != NULL ? url->password :
	DEFAULT_PASSWORD;
	const char *capabilities[] = {
		"authentication_failure_close", "connection.blocked",
		"consumer_cancel_notify", "publisher_confirms"
	};
	amqp_table_entry_t entries[lengthof(capabilities)];
	amqp_table_entry_t properties[2];
	amqp_connection_start_ok_t start_ok = {0};
	char	   *response = psprintf("%c%s%c%s", '\0', user, '\0', password);

	memset(entries, 0, sizeof(entries));
	for (int i = 0; i < lengthof(capabilities); i++)
	{
		entries[i].key = amqp_cstring_bytes(capabilities[i]);
		entries[i].value.kind = AMQP_FIELD_KIND_BOOLEAN;
		entries[i].value.value.boolean = 1;
	}
	memset(properties, 0, sizeof(properties));
	properties[0].key = amqp_cstring_bytes("capabilities");
	properties[0].value.kind = AMQP_FIELD_KIND_TABLE;
	properties[0].value.value.table.num_entries = lengthof(entries);
	properties[0].value.value.table.entries = entries;
	properties[1].key = amqp_cstring_bytes("connection_name");
	properties[1].value.kind = AMQP_FIELD_KIND_UTF8;
	properties[1].value.value.bytes = amqp_cstring_bytes(options->name);

	start_ok.client_properties.num_entries = lengthof(properties);
	start_ok.client_properties.entries = properties;
	start_ok.mechanism = amqp_cstring_bytes("PLAIN");
	start_ok.response.len = strlen(user) + strlen(password) + 2;
	start_ok.response.bytes = response;
	start_ok.locale = amqp_cstring_bytes("en_US");
	cqrs_amqp_frames_put_method(connection->frames, 0,
								AMQP_CONNECTION_START_OK_METHOD, &start_ok);
	explicit_bzero(response, start_ok.response.len);
	pfree(response);
}

static int
channels_needed(const CqrsConnection *connection)
{
	return connection->has_tokens ? CQRS_AMQP_LEASE_CHANNEL :
		CQRS_AMQP_SIDE_CHANNEL;
}

/* Returns false if the broker offers too few channels; 0 means no limit. */
static bool
has_channels(const CqrsConnection *connection,
			 const amqp_connection_tune_t *offer, CqrsFailure *failure)
{
	if (offer->channel_max == 0 ||
		offer->channel_max >= channels_needed(connection))
		return true;
	cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
					 "could not log in: the broker allows %d channels in a connection, and %d are needed",
					 offer->channel_max, channels_needed(connection));
	return false;
}

/*
 * Accept the broker's limits, or lower ones.  Returns false if they are too
 * low.
 */
static bool
tune(CqrsConnection *connection, const amqp_connection_tune_t *offer,
	 int heartbeat_s, CqrsFailure *failure)
{
	amqp_connection_tune_ok_t tune_ok = {0};

	/* 0 means no limit. */
	if (offer->frame_max != 0 && offer->frame_max < AMQP_FRAME_MIN_SIZE)
	{
		cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
						 "could not log in: the broker allows frames of %u bytes, and AMQP requires %d",
						 (unsigned int) offer->frame_max, AMQP_FRAME_MIN_SIZE);
		return false;
	}
	tune_ok.channel_max = channels_needed(connection);
	tune_ok.frame_max = offer->frame_max == 0 ? CQRS_FRAMES_MAX_BYTES :
		Min(offer->frame_max, CQRS_FRAMES_MAX_BYTES);
	tune_ok.heartbeat = offer->heartbeat == 0 ? heartbeat_s :
		Min(offer->heartbeat, heartbeat_s);
	connection->heartbeat_s = tune_ok.heartbeat;
	cqrs_amqp_frames_put_method(connection->frames, 0,
								AMQP_CONNECTION_TUNE_OK_METHOD,
								&tune_ok);
	cqrs_amqp_frames_tune(connection->frames, tune_ok.frame_max);
	return true;
}

bool
cqrs_amqp_set_up(CqrsConnection *connection, const CqrsConnectOptions *options,
				 CqrsFailure *failure)
{
	amqp_confirm_select_t select = {0};
	amqp_frame_t frame;

	if (!cqrs_amqp_open_channel(connection, CQRS_AMQP_CHANNEL, failure) ||
		(options->lease != NULL &&
		 !cqrs_amqp_take_lease(connection, options->lease, options->vacant,
							   failure)))
		return false;

	if (options->exchange != NULL)
	{
		cqrs_amqp_declare_exchange(connection, CQRS_AMQP_CHANNEL,
								   options->exchange);
		if (!cqrs_amqp_await(connection, CQRS_AMQP_CHANNEL,
							 AMQP_EXCHANGE_DECLARE_OK_METHOD,
							 "could not declare the exchange", &frame, failure))
			return false;
		connection->declaring--;
	}
	if (connection->consumer != NULL)
		return true;
	cqrs_amqp_frames_put_method(connection->frames, CQRS_AMQP_CHANNEL,
								AMQP_CONFIRM_SELECT_METHOD, &select);
	return cqrs_amqp_await(connection, CQRS_AMQP_CHANNEL,
						   AMQP_CONFIRM_SELECT_OK_METHOD, "enable confirms",
						   &frame, failure);
}

bool
cqrs_amqp_open_channel(CqrsConnection *connection, int channel,
					   CqrsFailure *failure)
{
	amqp_channel_open_t open = {0};
	amqp_frame_t frame;

	cqrs_amqp_frames_put_method(connection->frames, channel,
								AMQP_CHANNEL_OPEN_METHOD, &open);
	return cqrs_amqp_await(connection, channel, AMQP_CHANNEL_OPEN_OK_METHOD,
						   "could not open a channel", &frame, failure);
}

bool
cqrs_amqp_await(CqrsConnection *connection, int channel,
				amqp_method_number_t expected, const char *action,
				amqp_frame_t *frame, CqrsFailure *failure)
{
	while (cqrs_socket_may_go_on(connection->deadline))
	{
		CqrsEvent	event = {0};
		int			result = -1;

		if (cqrs_amqp_frames_flush(connection->frames))
			result = cqrs_amqp_frames_read(connection->frames, frame);
		if (result < 0)
		{
			cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT, "%s: %s",
							 action, cqrs_amqp_frames_error(connection->frames));
			return false;
		}
		if (result == 0)
		{
			(void) cqrs_socket_wait(cqrs_amqp_frames_socket(connection->frames),
									cqrs_amqp_frames_pending(connection->frames),
									connection->deadline);
			continue;
		}
		if (cqrs_amqp_side_closed(connection, frame, action, failure))
			return false;
		if (frame->channel == channel &&
			(expected == CQRS_AMQP_ANY_FRAME ||
			 (frame->frame_type == AMQP_FRAME_METHOD &&
			  frame->payload.method.id == expected)))
			return true;
		cqrs_amqp_handle_frame(connection, frame, action, &event, failure);
		if (event.kind != CQRS_EVENT_NONE)
			cqrs_amqp_keep(connection, &event, action, failure);
		if (event.kind == CQRS_EVENT_FAILED)
		{
			/* Whatever the channel of messages was closed for, all ends. */
			if (channel == CQRS_AMQP_SIDE_CHANNEL)
				failure->blame = CQRS_BLAME_TRANSPORT;
			return false;
		}
		if (event.kind == CQRS_EVENT_BLOCKED &&
			(channel == CQRS_AMQP_SIDE_CHANNEL ||
			 channel == CQRS_AMQP_LEASE_CHANNEL))
		{
			cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
							 "%s: the broker accepts no messages: %s",
							 action, event.detail);
			return false;
		}
	}
	cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
					 "%s: no answer in time", action);
	return false;
}
