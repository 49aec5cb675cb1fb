/*-------------------------------------------------------------------------
 *
 * diff_lines.c
 *	  The lines of a diff, as users pass them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "resend/diff_lines.h"

List *
cqrs_diff_lines_read(ArrayType *array)
{
	List	   *lines = NIL;
	Datum	   *elems;
	bool	   *nulls;
	int			nelems;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elems, &nulls,
					  &nelems);
	for (int i = 0; i < nelems; i++)
	{
		char	   *line = nulls[i] ? pstrdup("") : TextDatumGetCString(elems[i]);
		int			length = strlen(line);

		while (length > 0 && strchr(" \t\r\n", line[length - 1]) != NULL)
			line[--length] = '\0';
		lines = lappend(lines, line);
	}
	while (lines != NIL && *(char *) llast(lines) == '\0')
		lines = list_delete_last(lines);
	return lines;
}
