/*-------------------------------------------------------------------------
 *
 * iso_time.h
 *	  Points in time as messages have them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_ISO_TIME_H
#define CQRS_ISO_TIME_H

#include "postgres.h"

#include "datatype/timestamp.h"

/*
 * Read YYYY-MM-DD, a T or a blank, HH:MM[:SS[.fraction]], and Z, +HH, +HHMM or
 * +HH:MM; without one of these the time is in UTC.  Returns false for anything
 * else, a leap second included.
 */
extern bool cqrs_iso_time_read(const char *text, int length,
							   TimestampTz *result);

#endif							/* CQRS_ISO_TIME_H */
