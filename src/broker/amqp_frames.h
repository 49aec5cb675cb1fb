/*-------------------------------------------------------------------------
 *
 * amqp_frames.h
 *	  Frames of AMQP 0-9-1, on their way to and from a broker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_AMQP_FRAMES_H
#define CQRS_AMQP_FRAMES_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "broker/rabbitmq.h"
#include "broker/socket.h"

/* The largest frames that are sent or accepted, all their octets counted. */
#define CQRS_FRAMES_MAX_BYTES	131072

typedef struct CqrsFrames CqrsFrames;

/* Exchange frames over "stream", which belongs to them from now on. */
extern CqrsFrames *cqrs_frames_create(CqrsWire *stream);
extern void cqrs_frames_destroy(CqrsFrames *frames);

/*
 * The size of frames that was agreed on, from AMQP_FRAME_MIN_SIZE to
 * CQRS_FRAMES_MAX_BYTES.
 */
extern void cqrs_frames_tune(CqrsFrames *frames, Size frame_max);

/*
 * Put something into the output; there has to be room.  The body of a content
 * is not copied: it must stay until the broker has confirmed it, or destroy().
 */
extern bool cqrs_frames_has_room(const CqrsFrames *frames);
extern void cqrs_frames_put_protocol(CqrsFrames *frames);
extern void cqrs_frames_put_method(CqrsFrames *frames, int channel,
								   amqp_method_number_t id, void *method);
extern void cqrs_frames_put_content(CqrsFrames *frames, int channel,
									amqp_basic_properties_t *properties,
									const char *body, Size length);
extern void cqrs_frames_put_heartbeat(CqrsFrames *frames);

/*
 * Send of the output what can be sent without waiting, up to a limit; "pending"
 * tells whether something is left.  False when the connection is gone.
 */
extern bool cqrs_frames_flush(CqrsFrames *frames);
extern bool cqrs_frames_pending(const CqrsFrames *frames);

/* The channel of the body that is being sent, 0 when there is none. */
extern int	cqrs_frames_body_channel(const CqrsFrames *frames);

/*
 * The next frame, valid until the next call and as cqrs_decode_frame() fills it
 * in: 1, or 0 when none is there yet, or -1 when the connection is gone or the
 * broker has sent something else.
 */
extern int	cqrs_frames_read(CqrsFrames *frames, amqp_frame_t *frame);

/* Why the connection is gone. */
extern const char *cqrs_frames_error(const CqrsFrames *frames);

/* When something was last sent, and a whole frame received. */
extern TimestampTz cqrs_frames_sent_at(const CqrsFrames *frames);
extern TimestampTz cqrs_frames_received_at(const CqrsFrames *frames);

/* Overwrite what was sent, which may have been a password. */
extern void cqrs_frames_forget(CqrsFrames *frames);

extern CqrsWire *cqrs_frames_stream(const CqrsFrames *frames);

#endif							/* CQRS_AMQP_FRAMES_H */
