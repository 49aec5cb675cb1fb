/*-------------------------------------------------------------------------
 *
 * load_source.h
 *	  The lines of a dump, from an array or from a file on the server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LOAD_SOURCE_H
#define CQRS_LOAD_SOURCE_H

#include "postgres.h"

#include "utils/array.h"

typedef struct CqrsLoadLine
{
	int64		number;			/* from 1 */
	char	   *text;
	int			length;
} CqrsLoadLine;

typedef struct CqrsLoadSource
{
	int64		number;			/* of the last line that was read */
	int64		bytes;			/* that were read */
	/* an array */
	Datum	   *elems;
	bool	   *nulls;
	int			nelems;
	/* or a file */
	char	   *filename;
} CqrsLoadSource;

/*
 * The lines of an array, which has to stay, or of a file, which the current
 * user may read.
 */
extern void cqrs_load_source_open_array(CqrsLoadSource *source,
										ArrayType *array);
extern void cqrs_load_source_open_file(CqrsLoadSource *source,
									   const char *filename);

/*
 * Read up to "most" lines that are not empty into the current context, fewer
 * if they are long.  Returns how many, 0 at the end.  White space at their
 * ends is cut off.
 */
extern int	cqrs_load_source_read(CqrsLoadSource *source, int most,
								  CqrsLoadLine *lines);

/* The text of a line in the encoding of the database; raises errors. */
extern char *cqrs_load_source_text(const CqrsLoadSource *source,
								   const CqrsLoadLine *line);

#endif							/* CQRS_LOAD_SOURCE_H */
