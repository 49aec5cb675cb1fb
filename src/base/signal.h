/*-------------------------------------------------------------------------
 *
 * signal.h
 *	  The kinds of messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_SIGNAL_H
#define CQRS_SIGNAL_H

#include "postgres.h"

typedef enum CqrsSignal
{
	CQRS_SIGNAL_SAVE = 'S',
	CQRS_SIGNAL_DELETE = 'D',
	CQRS_SIGNAL_SYNC = 'Y'
} CqrsSignal;

/* The name of a signal in messages: "SAVE", for example. */
extern const char *cqrs_signal_name(CqrsSignal signal);

/* The signal of a name.  Returns false if there is none of that name. */
extern bool cqrs_signal_parse(const char *name, CqrsSignal *signal);

#endif							/* CQRS_SIGNAL_H */
