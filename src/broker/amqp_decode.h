/*-------------------------------------------------------------------------
 *
 * amqp_decode.h
 *	  Checking and decoding of the frames that a broker sends.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_AMQP_DECODE_H
#define CQRS_AMQP_DECODE_H

#include "postgres.h"

#include "broker/rabbitmq.h"

/* The header of a frame: type, channel, size. */
#define CQRS_FRAME_HEADER_BYTES 7

#define CQRS_DECODE_ERROR_BYTES 160

/*
 * Decode the frame at the beginning of "input".  Returns its size, 0 if it is
 * not complete yet, or -1 with the reason in "error", which has
 * CQRS_DECODE_ERROR_BYTES.  A frame of more than "max_size" bytes is refused
 * before it is complete.
 *
 * The frame points into "input" and into "pool".  The arguments of a method
 * are NULL if it has none that are used; those of connection.start are an
 * amqp_bytes_t with the encoded ones, or NULL without memory.  The properties
 * of a content are left encoded, in "raw".
 */
extern int	cqrs_amqp_decode_frame(const char *input, Size length,
								   Size max_size, amqp_pool_t *pool,
								   amqp_frame_t *frame, char *error);

/*
 * Copy what the broker says into a buffer, as a string that is valid in the
 * database's encoding, has no line breaks, and shows no password.
 */
extern void cqrs_amqp_decode_text(char *buffer, Size size, amqp_bytes_t text);

#endif							/* CQRS_AMQP_DECODE_H */
