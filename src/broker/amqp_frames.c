/*-------------------------------------------------------------------------
 *
 * amqp_frames.c
 *	  Sending and receiving of AMQP 0-9-1 frames.
 *
 * librabbitmq encodes and decodes methods and properties.  Its own input and
 * output are not used, for two reasons: its send blocks for as long as the
 * broker does not read, and reads nothing meanwhile; and its TLS connect
 * cannot be interrupted.
 *
 * Output is a buffer of whole frames.  The body of a large message is not
 * copied as a whole but goes through the buffer frame by frame, so that memory
 * is bounded whatever the size of the body.
 *
 * Whoever sends much asks for room first.  What answers the broker, or is one
 * request, is put without asking, so the broker decides how much that is as
 * long as the broker does not read.  If such output finds no room, nothing is
 * put and nothing is sent any more, and flush() fails.
 *
 * Input is a buffer with room for the largest frame that is accepted; frames
 * are checked and decoded there (amqp_decode.c).  The pool holds the decoded
 * arguments of the last method.  It is malloc'd memory, freed by destroy().
 * Both have a constant size, whatever the broker sends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/pg_bswap.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "broker/amqp_decode.h"
#include "broker/amqp_frames.h"

#define CONTENT_CLASS		60	/* basic */

#define OUTPUT_BYTES	(384 * 1024)
/* A frame, and as much again, to read much at once. */
#define INPUT_BYTES		(2 * CQRS_FRAMES_MAX_BYTES)
#define POOL_PAGE_BYTES	4096
/* The most writes in one flush. */
#define FLUSH_WRITES	64
/* More than a method, its properties and a copied body need. */
#define ROOM_BYTES		(64 * 1024)
/* Bodies up to this size are copied into the output. */
#define COPIED_BODY_BYTES	(32 * 1024)
/* More than a method, or the properties of a message, need. */
#define METHOD_BYTES	(8 * 1024)

#define NOT_READ "the broker does not read what is sent"

struct CqrsFrames
{
	CqrsSocket *sock;
	amqp_pool_t pool;			/* the last frame's arguments */
	Size		frame_max;		/* of frames to send */
	Size		input_max;		/* of received frames */
	char		error[CQRS_DECODE_ERROR_BYTES]; /* "": the socket's */

	const char *body;			/* unsent rest of a large body */
	Size		body_rest;
	int			body_channel;
	bool		broken;			/* no output is put or sent any more */

	TimestampTz sent_at;
	TimestampTz received_at;
	bool		input_is_new;	/* read since the last whole frame */
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
static void append_encoded(CqrsFrames *frames, int length);
static void append_uint16(CqrsFrames *frames, uint16 value);
static void append_uint32(CqrsFrames *frames, uint32 value);
static void append_uint64(CqrsFrames *frames, uint64 value);
static amqp_bytes_t output_room(CqrsFrames *frames);
static void give_up(CqrsFrames *frames, const char *error);
static void put_body(CqrsFrames *frames, int channel, const char *body,
					 Size length);
static void refill(CqrsFrames *frames);
static ssize_t read_input(CqrsFrames *frames);

CqrsFrames *
cqrs_amqp_frames_create(CqrsSocket *sock)
{
	CqrsFrames *frames = MemoryContextAlloc(TopMemoryContext,
											sizeof(CqrsFrames));

	memset(frames, 0, offsetof(CqrsFrames, input));
	frames->sock = sock;
	init_amqp_pool(&frames->pool, POOL_PAGE_BYTES);
	frames->frame_max = AMQP_FRAME_MIN_SIZE;
	frames->input_max = CQRS_FRAMES_MAX_BYTES;
	frames->sent_at = frames->received_at = GetCurrentTimestamp();
	return frames;
}

void
cqrs_amqp_frames_destroy(CqrsFrames *frames)
{
	empty_amqp_pool(&frames->pool);
	cqrs_socket_close(frames->sock);
	pfree(frames);
}

void
cqrs_amqp_frames_tune(CqrsFrames *frames, Size frame_max)
{
	Assert(frame_max >= AMQP_FRAME_MIN_SIZE &&
		   frame_max <= CQRS_FRAMES_MAX_BYTES);
	frames->frame_max = frames->input_max = frame_max;
}

bool
cqrs_amqp_frames_has_room(const CqrsFrames *frames)
{
	return !frames->broken && frames->body_rest == 0 &&
		OUTPUT_BYTES - frames->output_end >= ROOM_BYTES;
}

void
cqrs_amqp_frames_put_protocol(CqrsFrames *frames)
{
	append(frames, "AMQP\0\0\x09\x01", 8);
}

void
cqrs_amqp_frames_put_method(CqrsFrames *frames, int channel,
							amqp_method_number_t id, void *method)
{
	Size		start = begin_frame(frames, AMQP_FRAME_METHOD, channel);

	append_uint32(frames, id);
	append_encoded(frames, amqp_encode_method(id, method, output_room(frames)));
	end_frame(frames, start);
}

void
cqrs_amqp_frames_put_content(CqrsFrames *frames, int channel,
							 amqp_basic_properties_t *properties,
							 const char *body, Size length)
{
	Size		start;

	if (frames->body_rest > 0)
	{
		give_up(frames, NOT_READ);
		return;
	}
	start = begin_frame(frames, AMQP_FRAME_HEADER, channel);
	append_uint16(frames, CONTENT_CLASS);
	append_uint16(frames, 0);
	append_uint64(frames, length);
	append_encoded(frames, amqp_encode_properties(CONTENT_CLASS, properties,
												  output_room(frames)));
	end_frame(frames, start);

	if (length <= COPIED_BODY_BYTES &&
		length + CQRS_FRAME_HEADER_BYTES + 1 <= frames->frame_max)
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
cqrs_amqp_frames_put_heartbeat(CqrsFrames *frames)
{
	/* If there is no room, the pending output will show that we are alive. */
	if (OUTPUT_BYTES - frames->output_end < ROOM_BYTES)
		return;
	end_frame(frames, begin_frame(frames, AMQP_FRAME_HEARTBEAT, 0));
}

bool
cqrs_amqp_frames_flush(CqrsFrames *frames)
{
	for (int i = 0; i < FLUSH_WRITES && !frames->broken; i++)
	{
		ssize_t		written;

		if (frames->output_start == frames->output_end)
			refill(frames);
		if (frames->output_start == frames->output_end)
			return true;
		written = cqrs_socket_write(frames->sock,
									frames->output + frames->output_start,
									frames->output_end - frames->output_start);
		if (written < 0)
			return false;
		if (written == 0)
			return true;
		frames->output_start += written;
		frames->sent_at = GetCurrentTimestamp();
	}
	return !frames->broken;
}

bool
cqrs_amqp_frames_pending(const CqrsFrames *frames)
{
	return frames->output_start < frames->output_end || frames->body_rest > 0;
}

int
cqrs_amqp_frames_body_channel(const CqrsFrames *frames)
{
	return frames->body_rest > 0 ? frames->body_channel : 0;
}

int
cqrs_amqp_frames_read(CqrsFrames *frames, amqp_frame_t *frame)
{
	for (;;)
	{
		int			consumed;
		ssize_t		length;

		/* Frees the decoded arguments of earlier frames. */
		recycle_amqp_pool(&frames->pool);
		consumed = cqrs_amqp_decode_frame(frames->input + frames->input_start,
										  frames->input_end - frames->input_start,
										  frames->input_max, &frames->pool, frame,
										  frames->error);
		if (consumed < 0)
			return -1;
		if (consumed > 0)
		{
			frames->input_start += consumed;
			if (frames->input_is_new)
				frames->received_at = GetCurrentTimestamp();
			frames->input_is_new = false;
			return 1;
		}

		length = read_input(frames);
		if (length <= 0)
			return length;
	}
}

const char *
cqrs_amqp_frames_error(const CqrsFrames *frames)
{
	return frames->error[0] != '\0' ? frames->error :
		cqrs_socket_error(frames->sock);
}

TimestampTz
cqrs_amqp_frames_sent_at(const CqrsFrames *frames)
{
	return frames->sent_at;
}

TimestampTz
cqrs_amqp_frames_received_at(const CqrsFrames *frames)
{
	return frames->received_at;
}

void
cqrs_amqp_frames_forget(CqrsFrames *frames)
{
	explicit_bzero(frames->output, frames->output_start);
}

CqrsSocket *
cqrs_amqp_frames_socket(const CqrsFrames *frames)
{
	return frames->sock;
}

/* Returns the start of the frame; end_frame() fills in the frame's size. */
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

/* Fill in the size of the frame that begins at "start". */
static void
end_frame(CqrsFrames *frames, Size start)
{
	uint32		size = pg_hton32(frames->output_end - start -
								 CQRS_FRAME_HEADER_BYTES);
	char		end = (char) AMQP_FRAME_END;

	if (frames->broken)
		return;
	memcpy(frames->output + start + 3, &size, sizeof(size));
	append(frames, &end, 1);
}

/* Append bytes, for which there is room. */
static void
append(CqrsFrames *frames, const void *data, Size size)
{
	if (size > OUTPUT_BYTES - frames->output_end)
		give_up(frames, NOT_READ);
	if (frames->broken)
		return;
	memcpy(frames->output + frames->output_end, data, size);
	frames->output_end += size;
}

/*
 * Note what librabbitmq has encoded into the room of the output.  Its status
 * for too little room is the same as for what cannot be encoded at all.
 */
static void
append_encoded(CqrsFrames *frames, int length)
{
	if (length < 0)
		give_up(frames, output_room(frames).len < METHOD_BYTES ? NOT_READ :
				"what is to be sent cannot be encoded");
	else if (!frames->broken)
		frames->output_end += length;
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

/* Where output continues, and how much there is room for. */
static amqp_bytes_t
output_room(CqrsFrames *frames)
{
	amqp_bytes_t room;

	room.bytes = frames->output + frames->output_end;
	room.len = OUTPUT_BYTES - frames->output_end;
	return room;
}

/* End the output.  If there is an error already, that one came first. */
static void
give_up(CqrsFrames *frames, const char *error)
{
	if (frames->error[0] == '\0')
		strlcpy(frames->error, error, sizeof(frames->error));
	frames->broken = true;
}

static void
put_body(CqrsFrames *frames, int channel, const char *body, Size length)
{
	Size		start = begin_frame(frames, AMQP_FRAME_BODY, channel);

	append(frames, body, length);
	end_frame(frames, start);
}

/* Put more of a large body into the output, which is empty. */
static void
refill(CqrsFrames *frames)
{
	Size		most = frames->frame_max - CQRS_FRAME_HEADER_BYTES - 1;
	Size		length = Min(frames->body_rest, most);

	frames->output_start = frames->output_end = 0;
	if (length == 0)
		return;
	put_body(frames, frames->body_channel, frames->body, length);
	frames->body += length;
	frames->body_rest -= length;
}

/* Read, as cqrs_socket_read() does, and append to the incomplete frame. */
static ssize_t
read_input(CqrsFrames *frames)
{
	ssize_t		length;

	frames->input_end -= frames->input_start;
	memmove(frames->input, frames->input + frames->input_start,
			frames->input_end);
	frames->input_start = 0;
	/* I19: an incomplete frame is shorter than half the buffer. */
	Assert(frames->input_end < CQRS_FRAMES_MAX_BYTES);
	length = cqrs_socket_read(frames->sock, frames->input + frames->input_end,
							  INPUT_BYTES - frames->input_end);
	if (length > 0)
	{
		frames->input_end += length;
		frames->input_is_new = true;
	}
	return length;
}
