/*-------------------------------------------------------------------------
 *
 * amqp_rest.h
 *	  Reading of encoded data from its beginning to its end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_AMQP_REST_H
#define CQRS_AMQP_REST_H

#include "postgres.h"

/* The part of encoded data that has not been read yet. */
typedef struct CqrsRest
{
	const char *data;
	Size		length;
} CqrsRest;

/* Take bytes off the beginning.  Returns false if there are fewer. */
static inline bool
cqrs_rest_take(CqrsRest *rest, Size length, const char **data)
{
	if (rest->length < length)
		return false;
	*data = rest->data;
	rest->data += length;
	rest->length -= length;
	return true;
}

/* Take a number of up to 8 bytes, in network byte order. */
static inline bool
cqrs_rest_uint(CqrsRest *rest, Size length, uint64 *value)
{
	const char *data;

	if (!cqrs_rest_take(rest, length, &data))
		return false;
	*value = 0;
	for (Size i = 0; i < length; i++)
		*value = *value << 8 | (unsigned char) data[i];
	return true;
}

/* Take what follows its own length, which has "width" bytes. */
static inline bool
cqrs_rest_counted(CqrsRest *rest, Size width, CqrsRest *value)
{
	uint64		length;

	if (!cqrs_rest_uint(rest, width, &length) ||
		!cqrs_rest_take(rest, length, &value->data))
		return false;
	value->length = length;
	return true;
}

#endif							/* CQRS_AMQP_REST_H */
