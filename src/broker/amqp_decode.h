/*-------------------------------------------------------------------------
 *
 * amqp_decode.h
 *	  What a broker sends, checked and decoded.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_AMQP_DECODE_H
#define CQRS_AMQP_DECODE_H

#include "postgres.h"

#include "broker/rabbitmq.h"

/* Of each frame: type, channel, size. */
#define CQRS_FRAME_HEADER_BYTES 7

#define CQRS_DECODE_ERROR_BYTES 160

/*
 * Decode the frame that "input" begins with.  Returns its size, 0 when it is
 * not complete yet, or -1 with the reason in "error", of
 * CQRS_DECODE_ERROR_BYTES.  A frame of more than "max_size" bytes is refused
 * before it is complete.
 *
 * The frame points into "input" and into "pool".  The arguments of a method
 * are NULL when the method has none that a publisher may need; a content's
 * properties are left encoded, in "raw".
 */
extern int	cqrs_decode_frame(const char *input, Size length, Size max_size,
							  amqp_pool_t *pool, amqp_frame_t *frame,
							  char *error);

/*
 * The message id in encoded properties of class basic; false when there is
 * none, or they are malformed.
 */
extern bool cqrs_decode_message_id(amqp_bytes_t properties,
								   amqp_bytes_t *message_id);

/*
 * Copy a text of the broker's into a buffer, as a string that is valid in the
 * database's encoding and fits on a line of the log.
 */
extern void cqrs_decode_text(char *buffer, Size size, amqp_bytes_t text);

#endif							/* CQRS_AMQP_DECODE_H */
