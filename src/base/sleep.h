/*-------------------------------------------------------------------------
 *
 * sleep.h
 *	  Sessions that wait for a worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_SLEEP_H
#define CQRS_SLEEP_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "storage/condition_variable.h"

#include "base/compat.h"

/*
 * Sleep until the variable is signalled, or for no reason.  Returns false, at
 * once, when the deadline has passed; DT_NOEND: there is none.  The caller has
 * prepared to sleep.
 */
extern bool cqrs_sleep_until(ConditionVariable *variable, TimestampTz deadline,
							 CqrsWaitEvent event);

#endif							/* CQRS_SLEEP_H */
