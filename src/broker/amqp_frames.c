/*-------------------------------------------------------------------------
 *
 * amqp_frames.c
 *	  Frames of AMQP 0-9-1, on their way to and from a broker.
 *
 * librabbitmq encodes and decodes methods, properties and incoming frames; its
 * own input and output is not used, because a send of its blocks for as long
 * as the broker does not read, hiding meanwhile what the broker says, and
 * because it connects by TLS in a way that cannot be interrupted.
 *
 * Output is a buffer of whole frames.  The body of a large message stays where
 * it is and goes through the buffer frame by frame, so that memory is bounded
 * whatever its size.
 *
 * librabbitmq's decoder calls abort() only when amqp_tune_connection() comes
 * in the middle of a frame; its memory is malloc'd, and given back by
 * amqp_destroy_connection().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/pg_bswap.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "broker/amqp_frames.h"

#define FRAME_HEADER_BYTES	7
#define FRAME_END			0xCE
#define CONTENT_CLASS		60	/* basic */

#define OUTPUT_BYTES	(384 * 1024)
#define INPUT_BYTES		(64 * 1024)
/* More than a method, properties and a body that is copied take. */
#define ROOM_BYTES		(64 * 1024)
/* Bodies up to this size are copied into the output. */
#define COPIED_BODY_BYTES	(32 * 1024)

struct CqrsFrames
{
	CqrsWire   *stream;
	amqp_connection_state_t decoder;
	int			frame_max;
	const char *error;			/* of the decoder; NULL: the stream's */

	const char *body;			/* what is left of a large body */
	Size		body_rest;
	int			body_channel;

	TimestampTz sent_at;
	TimestampTz received_at;
	Size		input_start;
	Size		input_end;
	Size		output_start;
	Size		output_end;
	char		input[INPUT_BYTES];
	char		output[OUTPUT_BYTES];
};

static Size begin_frame(CqrsFrames *frames, int type, int channel);
static void end_frame(CqrsFrames *frames, Size start);
static void append(CqrsFrames *frames, const void *data, Size size);
static void append_uint16(CqrsFrames *frames, uint16 value);
static void append_uint32(CqrsFrames *frames, uint32 value);
static void append_uint64(CqrsFrames *frames, uint64 value);
static amqp_bytes_t output_room(CqrsFrames *frames);
static void put_body(CqrsFrames *frames, int channel, const char *body,
					 Size length);
static void refill(CqrsFrames *frames);

CqrsFrames *
cqrs_frames_create(CqrsWire *stream)
{
	CqrsFrames *frames;
	amqp_connection_state_t decoder = amqp_new_connection();

	if (decoder == NULL)
	{
		cqrs_wire_close(stream);
		return NULL;
	}
	frames = MemoryContextAlloc(TopMemoryContext, sizeof(CqrsFrames));
	memset(frames, 0, offsetof(CqrsFrames, input));
	frames->stream = stream;
	frames->decoder = decoder;
	frames->frame_max = AMQP_FRAME_MIN_SIZE;
	frames->sent_at = frames->received_at = GetCurrentTimestamp();
	return frames;
}

void
cqrs_frames_destroy(CqrsFrames *frames)
{
	(void) amqp_destroy_connection(frames->decoder);
	cqrs_wire_close(frames->stream);
	pfree(frames);
}

bool
cqrs_frames_tune(CqrsFrames *frames, int frame_max)
{
	if (!amqp_release_buffers_ok(frames->decoder) ||
		amqp_tune_connection(frames->decoder, 0, frame_max, 0) != AMQP_STATUS_OK)
		return false;
	frames->frame_max = frame_max;
	return true;
}

bool
cqrs_frames_has_room(const CqrsFrames *frames)
{
	return frames->body_rest == 0 &&
		OUTPUT_BYTES - frames->output_end >= ROOM_BYTES;
}

void
cqrs_frames_put_protocol(CqrsFrames *frames)
{
	append(frames, "AMQP\0\0\x09\x01", 8);
}

void
cqrs_frames_put_method(CqrsFrames *frames, int channel,
					   amqp_method_number_t id, void *method)
{
	Size		start = begin_frame(frames, AMQP_FRAME_METHOD, channel);
	int			length;

	append_uint32(frames, id);
	length = amqp_encode_method(id, method, output_room(frames));
	Assert(length >= 0);
	frames->output_end += Max(length, 0);
	end_frame(frames, start);
}

void
cqrs_frames_put_content(CqrsFrames *frames, int channel,
						amqp_basic_properties_t *properties,
						const char *body, Size length)
{
	Size		start = begin_frame(frames, AMQP_FRAME_HEADER, channel);
	int			encoded;

	append_uint16(frames, CONTENT_CLASS);
	append_uint16(frames, 0);
	append_uint64(frames, length);
	encoded = amqp_encode_properties(CONTENT_CLASS, properties,
									 output_room(frames));
	Assert(encoded >= 0);
	frames->output_end += Max(encoded, 0);
	end_frame(frames, start);

	if (length <= COPIED_BODY_BYTES &&
		length + FRAME_HEADER_BYTES + 1 <= frames->frame_max)
	{
		if (length > 0)
			put_body(frames, channel, body, length);
		return;
	}
	frames->body = body;
	frames->body_rest = length;
	frames->body_channel = channel;
}

void
cqrs_frames_put_heartbeat(CqrsFrames *frames)
{
	/* When there is no room, what is there will show that we live. */
	if (OUTPUT_BYTES - frames->output_end < ROOM_BYTES)
		return;
	end_frame(frames, begin_frame(frames, AMQP_FRAME_HEARTBEAT, 0));
}

bool
cqrs_frames_flush(CqrsFrames *frames)
{
	for (;;)
	{
		ssize_t		written;

		if (frames->output_start == frames->output_end)
			refill(frames);
		if (frames->output_start == frames->output_end)
			return true;
		written = cqrs_wire_write(frames->stream,
								  frames->output + frames->output_start,
								  frames->output_end - frames->output_start);
		if (written < 0)
			return false;
		if (written == 0)
			return true;
		frames->output_start += written;
		frames->sent_at = GetCurrentTimestamp();
	}
}

bool
cqrs_frames_pending(const CqrsFrames *frames)
{
	return frames->output_start < frames->output_end || frames->body_rest > 0;
}

int
cqrs_frames_read(CqrsFrames *frames, amqp_frame_t *frame)
{
	for (;;)
	{
		ssize_t		length;

		while (frames->input_start < frames->input_end)
		{
			amqp_bytes_t bytes;
			int			consumed;

			bytes.bytes = frames->input + frames->input_start;
			bytes.len = frames->input_end - frames->input_start;
			/* Frees what earlier frames were decoded into. */
			amqp_maybe_release_buffers(frames->decoder);
			consumed = amqp_handle_input(frames->decoder, bytes, frame);
			if (consumed < 0)
			{
				frames->error = amqp_error_string2(consumed);
				return -1;
			}
			frames->input_start += consumed;
			if (frame->frame_type != 0)
				return 1;
		}

		length = cqrs_wire_read(frames->stream, frames->input, INPUT_BYTES);
		if (length <= 0)
			return length;
		frames->input_start = 0;
		frames->input_end = length;
		frames->received_at = GetCurrentTimestamp();
	}
}

const char *
cqrs_frames_error(const CqrsFrames *frames)
{
	return frames->error != NULL ? frames->error :
		cqrs_wire_error(frames->stream);
}

TimestampTz
cqrs_frames_sent_at(const CqrsFrames *frames)
{
	return frames->sent_at;
}

TimestampTz
cqrs_frames_received_at(const CqrsFrames *frames)
{
	return frames->received_at;
}

void
cqrs_frames_forget(CqrsFrames *frames)
{
	explicit_bzero(frames->output, frames->output_start);
}

CqrsWire   *
cqrs_frames_stream(const CqrsFrames *frames)
{
	return frames->stream;
}

/* Returns where the frame begins; its size is filled in at its end. */
static Size
begin_frame(CqrsFrames *frames, int type, int channel)
{
	Size		start;
	char		octet = type;

	if (frames->output_start == frames->output_end)
		frames->output_start = frames->output_end = 0;
	start = frames->output_end;
	append(frames, &octet, 1);
	append_uint16(frames, channel);
	append_uint32(frames, 0);
	return start;
}

static void
end_frame(CqrsFrames *frames, Size start)
{
	uint32		size = pg_hton32(frames->output_end - start -
								 FRAME_HEADER_BYTES);
	char		end = (char) FRAME_END;

	memcpy(frames->output + start + 3, &size, sizeof(size));
	append(frames, &end, 1);
}

static void
append(CqrsFrames *frames, const void *data, Size size)
{
	Assert(frames->output_end + size <= OUTPUT_BYTES);
	memcpy(frames->output + frames->output_end, data, size);
	frames->output_end += size;
}

static void
append_uint16(CqrsFrames *frames, uint16 value)
{
	value = pg_hton16(value);
	append(frames, &value, sizeof(value));
}

static void
append_uint32(CqrsFrames *frames, uint32 value)
{
	value = pg_hton32(value);
	append(frames, &value, sizeof(value));
}

static void
append_uint64(CqrsFrames *frames, uint64 value)
{
	value = pg_hton64(value);
	append(frames, &value, sizeof(value));
}

static amqp_bytes_t
output_room(CqrsFrames *frames)
{
	amqp_bytes_t room;

	room.bytes = frames->output + frames->output_end;
	room.len = OUTPUT_BYTES - frames->output_end;
	return room;
}

static void
put_body(CqrsFrames *frames, int channel, const char *body, Size length)
{
	Size		start = begin_frame(frames, AMQP_FRAME_BODY, channel);

	append(frames, body, length);
	end_frame(frames, start);
}

/* Go on with a large body; the output is empty. */
static void
refill(CqrsFrames *frames)
{
	Size		most = frames->frame_max - FRAME_HEADER_BYTES - 1;
	Size		length = Min(frames->body_rest, most);

	frames->output_start = frames->output_end = 0;
	if (length == 0)
		return;
	put_body(frames, frames->body_channel, frames->body, length);
	frames->body += length;
	frames->body_rest -= length;
}
