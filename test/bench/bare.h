/*-------------------------------------------------------------------------
 *
 * bare.h
 *	  What the bare loops of the benchmark share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BARE_H
#define BARE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static inline void
fail(const char *what)
{
	fprintf(stderr, "bare loop: %s failed\n", what);
	exit(1);
}

static inline double
now_s(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

/* Processor time of this process. */
static inline double
cpu_s(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
		(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* Read the lines of standard input; returns their number. */
static inline size_t
read_bodies(char ***bodies)
{
	char	   *line = NULL;
	size_t		size = 0;
	size_t		n = 0;
	ssize_t		length;

	while ((length = getline(&line, &size, stdin)) > 0)
	{
		if (line[length - 1] == '\n')
			line[length - 1] = '\0';
		if ((n & (n - 1)) == 0)
			*bodies = realloc(*bodies, (n == 0 ? 1 : n * 2) * sizeof(char *));
		(*bodies)[n++] = strdup(line);
	}
	free(line);
	return n;
}

#endif							/* BARE_H */
