/*-------------------------------------------------------------------------
 *
 * amqp_frames.h
 *	  Sending and receiving of AMQP 0-9-1 frames.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_AMQP_FRAMES_H
#define CQRS_AMQP_FRAMES_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "broker/rabbitmq.h"
#include "broker/socket.h"

/*
 * The size of the largest frames that are sent or accepted, with all octets.
 */
#define CQRS_FRAMES_MAX_BYTES	131072

typedef struct CqrsFrames CqrsFrames;

/* Create frames that use "sock", and own it from now on. */
extern CqrsFrames *cqrs_amqp_frames_create(CqrsSocket *sock);
extern void cqrs_amqp_frames_destroy(CqrsFrames *frames);

/*
 * Set the frame size that was negotiated, from AMQP_FRAME_MIN_SIZE to
 * CQRS_FRAMES_MAX_BYTES.
 */
extern void cqrs_amqp_frames_tune(CqrsFrames *frames, Size frame_max);

/*
 * Put something into the output.  Without room for it, the output is broken
 * from then on: nothing is put any more, and flush() fails.  So whoever can
 * wait asks for room first: has_room() is about any message, and whatever is
 * smaller.  The body of a content is not copied: it must stay until the broker
 * has confirmed the message, or until destroy().
 */
extern bool cqrs_amqp_frames_has_room(const CqrsFrames *frames);
extern void cqrs_amqp_frames_put_protocol(CqrsFrames *frames);
extern void cqrs_amqp_frames_put_method(CqrsFrames *frames, int channel,
										amqp_method_number_t id, void *method);
extern void cqrs_amqp_frames_put_content(CqrsFrames *frames, int channel,
										 amqp_basic_properties_t *properties,
										 const char *body, Size length);
extern void cqrs_amqp_frames_put_heartbeat(CqrsFrames *frames);

/*
 * Send output without waiting, up to a limit.  Returns false if the connection
 * is gone, or the output is broken.  pending() returns whether output is left.
 */
extern bool cqrs_amqp_frames_flush(CqrsFrames *frames);
extern bool cqrs_amqp_frames_pending(const CqrsFrames *frames);

/* The channel of the body that is being sent, 0 if there is none. */
extern int	cqrs_amqp_frames_body_channel(const CqrsFrames *frames);

/*
 * Read the next frame, which is filled in as by cqrs_amqp_decode_frame() and
 * valid until the next call.  Returns 1, or 0 if no frame is complete yet, or
 * -1 if the connection is gone or the broker has sent something that is no
 * frame.
 */
extern int	cqrs_amqp_frames_read(CqrsFrames *frames, amqp_frame_t *frame);

/* Why the connection is gone, or the output broken. */
extern const char *cqrs_amqp_frames_error(const CqrsFrames *frames);

/* When bytes were last sent, and when a whole frame was last received. */
extern TimestampTz cqrs_amqp_frames_sent_at(const CqrsFrames *frames);
extern TimestampTz cqrs_amqp_frames_received_at(const CqrsFrames *frames);

/* Overwrite output that was sent, since it may contain a password. */
extern void cqrs_amqp_frames_forget(CqrsFrames *frames);

extern CqrsSocket *cqrs_amqp_frames_socket(const CqrsFrames *frames);

#endif							/* CQRS_AMQP_FRAMES_H */
