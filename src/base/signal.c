/*-------------------------------------------------------------------------
 *
 * signal.c
 *	  The kinds of messages.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/signal.h"

static const CqrsSignal signals[] = {CQRS_SIGNAL_SAVE, CQRS_SIGNAL_DELETE, CQRS_SIGNAL_SYNC};

const char *
cqrs_signal_name(CqrsSignal signal)
{
	switch (signal)
	{
		case CQRS_SIGNAL_SAVE:
			return "SAVE";
		case CQRS_SIGNAL_DELETE:
			return "DELETE";
		case CQRS_SIGNAL_SYNC:
			return "SYNC";
	}
	elog(ERROR, "unknown signal type %d", signal);
}

bool
cqrs_signal_parse(const char *name, CqrsSignal *signal)
{
	for (int i = 0; i < lengthof(signals); i++)
	{
		if (strcmp(name, cqrs_signal_name(signals[i])) == 0)
		{
			*signal = signals[i];
			return true;
		}
	}
	return false;
}
