/*-------------------------------------------------------------------------
 *
 * lines.h
 *	  Lines of text that masters and replicas exchange to compare their rows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LINES_H
#define CQRS_LINES_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/array.h"

#include "apply/json_scan.h"

/* Lines that were received. */
typedef struct CqrsLines
{
	char	   *first;			/* "cqrs_id,time", or NULL if there is no line */
	char	   *cqrs_id;
	TimestampTz time;
	List	   *lines;			/* of char *: the others */
} CqrsLines;

/*
 * Read lines, an array of text, in the current context.  White space at the
 * end of lines and empty lines at the end are ignored.  "command" made them,
 * for the hint of errors.
 */
extern CqrsLines cqrs_lines_read(ArrayType *array, const char *command);

/*
 * The elements of a line that is a JSON array; none for an empty line.
 * "number" counts the lines after the first.
 */
extern void cqrs_lines_elements(char *line, int number,
								CqrsJsonMembers *elements);

/* A key as messages have it in "instance_pk". */
extern char *cqrs_lines_key(const CqrsJsonValue *key);

/* Begin the result of a function that returns lines; add one. */
extern void cqrs_lines_begin_result(FunctionCallInfo fcinfo);
extern void cqrs_lines_add(FunctionCallInfo fcinfo, const char *line);

#endif							/* CQRS_LINES_H */
