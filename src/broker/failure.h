/*-------------------------------------------------------------------------
 *
 * failure.h
 *	  Why a connection to a broker has failed, as text.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_FAILURE_H
#define CQRS_FAILURE_H

#include "broker/transport.h"

/* Fill in a failure.  A text that is too long is cut. */
extern void cqrs_failure_set(CqrsFailure *failure, CqrsBlame blame,
							 const char *format,...) pg_attribute_printf(3, 4);

/*
 * Copy a text that came from a broker, of "length" bytes, into "buffer", as
 * text that is valid in the database's encoding.
 */
extern void cqrs_failure_clean(char *buffer, Size size, const char *text,
							   Size length);

#endif							/* CQRS_FAILURE_H */
