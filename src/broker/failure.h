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
 * Copy a text of "length" bytes into "buffer", as text that is valid in the
 * database's encoding.  For names and ids.
 */
extern void cqrs_failure_clean(char *buffer, Size size, const char *text,
							   Size length);

/*
 * The same for the words of a broker, which somebody is going to read: three
 * asterisks replace a password of cqrs_failure_hide().
 */
extern void cqrs_failure_quote(char *buffer, Size size, const char *text,
							   Size length);

/*
 * Hide this password of a connection from now on, and the one before it: a
 * process has two connections at most.  NULL, an empty password and one that is
 * the user's name are no secrets.
 */
extern void cqrs_failure_hide(const char *user, const char *password);

#endif							/* CQRS_FAILURE_H */
