/*-------------------------------------------------------------------------
 *
 * server.h
 *	  What unit tests of window.c and hold.c have in the place of a server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_UNIT_SERVER_H
#define CQRS_UNIT_SERVER_H

#include "postgres.h"

#include "datatype/timestamp.h"

#define CHECK(condition) \
	((condition) ? (void) 0 : unit_failed(__FILE__, __LINE__, #condition))

extern TimestampTz unit_now;	/* what GetCurrentTimestamp() returns */

/* Settings of the two files. */
extern int	cqrs_confirm_window;
extern int	cqrs_confirm_window_kb;

/* What a failure is reported with besides, or NULL. */
extern const char *unit_case;

/* Report a failure and end the test. */
extern void unit_failed(const char *file, int line, const char *condition);

/* Linked as ExceptionalCondition, whose other arguments differ by version. */
extern void assertion_failed(const char *condition);

#endif							/* CQRS_UNIT_SERVER_H */
