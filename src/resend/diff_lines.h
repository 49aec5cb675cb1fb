/*-------------------------------------------------------------------------
 *
 * diff_lines.h
 *	  The lines of a diff, as users pass them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_DIFF_LINES_H
#define CQRS_DIFF_LINES_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/array.h"

/*
 * The lines (char *) of an array of text, in the current context.  White space
 * at the end of a line and empty lines at the end are left out; null is an
 * empty line.
 */
extern List *cqrs_diff_lines_read(ArrayType *array);

#endif							/* CQRS_DIFF_LINES_H */
