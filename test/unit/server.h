/*-------------------------------------------------------------------------
 *
 * server.h
 *	  What unit tests share: checks, random numbers, and what stands in the
 *	  place of the server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UNIT_SERVER_H
#define UNIT_SERVER_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "base/compat.h"

#define CHECK(condition) \
	((condition) ? (void) 0 : failed(__FILE__, __LINE__, #condition))

/* Ends the program, and names the seed. */
pg_noreturn extern void failed(const char *file, int line,
							   const char *condition);

/* The schedule that runs; main() seeds any() with it. */
extern uint64 seed;

/* A random number from 0 to count - 1. */
extern int	any(int count);

/* Frees what was allocated and not freed. */
extern void free_all(void);

/* What GetCurrentTimestamp() returns. */
extern TimestampTz now_us;

/* Each piece of memory that is freed, or NULL: nobody looks. */
extern void (*on_free) (const char *memory, Size size);

/*
 * What main() returns: runs schedules, each with the next seed, and says how
 * many of what there were.  Arguments are SECONDS [SEED].
 */
extern int	run_schedules(int argc, char **argv, void (*run) (void),
						  const char *what);

#endif							/* UNIT_SERVER_H */
