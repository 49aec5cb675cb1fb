/*-------------------------------------------------------------------------
 *
 * load_source.c
 *	  The lines of a dump, from an array or from a file on the server.
 *
 * A file is opened anew for each read, and closed after it: the end of a
 * transaction, which comes in between, would close it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "common/string.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "base/compat.h"
#include "reconcile/load_source.h"

/* The most bytes that are read at a time; a longer line is read alone. */
#define READ_BYTES	(16 * 1024 * 1024)

static int	read_array(CqrsLoadSource *source, int most, CqrsLoadLine *lines);
static int	read_file(CqrsLoadSource *source, int most, CqrsLoadLine *lines);
static void check_zeros(const CqrsLoadSource *source, FILE *file);
static bool add_line(CqrsLoadSource *source, char *text, int length,
					 CqrsLoadLine *line);
static FILE *open_file(const char *filename);

void
cqrs_load_source_open_array(CqrsLoadSource *source, ArrayType *array)
{
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &source->elems,
					  &source->nulls, &source->nelems);
}

void
cqrs_load_source_open_file(CqrsLoadSource *source, const char *filename)
{
	struct stat st;

	if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to read a file on the server"),
				 errdetail("Only members of the role \"pg_read_server_files\" may read files on the server."),
				 errhint("The owner of the replica can load lines from the client with cqrs_bulk_load(lines).")));
	source->filename = pstrdup(filename);
	canonicalize_path(source->filename);
	if (!is_absolute_path(source->filename))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("relative path not allowed for a dump on the server"),
				 errdetail("The path is \"%s\".", source->filename),
				 errhint("Give the absolute path of a file on the server.")));
	if (stat(source->filename, &st) == 0 && !S_ISREG(st.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a regular file", source->filename)));
}

int
cqrs_load_source_read(CqrsLoadSource *source, int most, CqrsLoadLine *lines)
{
	return source->filename == NULL ? read_array(source, most, lines) :
		read_file(source, most, lines);
}

/* cqrs_load_source_read() for an array.  Null is an empty line. */
static int
read_array(CqrsLoadSource *source, int most, CqrsLoadLine *lines)
{
	int			nlines = 0;
	int64		limit = source->bytes + READ_BYTES;

	/* Long blanks are no end. */
	while (nlines < most && source->number < source->nelems &&
		   (source->bytes < limit || nlines == 0))
	{
		int64		i = source->number;
		char	   *line = source->nulls[i] ? pstrdup("") :
		TextDatumGetCString(source->elems[i]);
		int			length = strlen(line);

		source->bytes += length;
		if (add_line(source, line, length, &lines[nlines]))
			nlines++;
	}
	return nlines;
}

/* The same for a file, which is opened for each call only. */
static int
read_file(CqrsLoadSource *source, int most, CqrsLoadLine *lines)
{
	FILE	   *file = open_file(source->filename);
	int			nlines = 0;
	int64		limit = source->bytes + READ_BYTES;
	StringInfoData text;

	if (fseeko(file, source->bytes, SEEK_SET) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not seek in file \"%s\": %m",
						source->filename)));
	while (nlines < most && (source->bytes < limit || nlines == 0))
	{
		bool		any;

		CHECK_FOR_INTERRUPTS();
		initStringInfo(&text);
		any = pg_get_line_append(file, &text, NULL);
		source->bytes += text.len;
		check_zeros(source, file);
		if (!any)
			break;
		if (add_line(source, text.data, text.len, &lines[nlines]))
			nlines++;
		else
			pfree(text.data);
	}
	if (ferror(file))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", source->filename)));
	FreeFile(file);
	return nlines;
}

/*
 * PostgreSQL's function for lines drops what is between a zero byte and the end
 * of its line, and goes on with the next line.
 */
static void
check_zeros(const CqrsLoadSource *source, FILE *file)
{
	if (!ferror(file) && ftello(file) != source->bytes)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("file \"%s\" has a zero byte in line " INT64_FORMAT " or after it",
						source->filename, source->number + 1),
				 errhint("Remove the zero bytes, and load the file again.")));
}

/* Count a line.  Returns false for an empty one. */
static bool
add_line(CqrsLoadSource *source, char *text, int length, CqrsLoadLine *line)
{
	source->number++;
	while (length > 0 && strchr(" \t\r\n", text[length - 1]) != NULL)
		text[--length] = '\0';
	line->number = source->number;
	line->text = text;
	line->length = length;
	return length > 0;
}

/*
 * The file, open for reading up to the end of the (sub)transaction; an error
 * if it cannot be.
 */
static FILE *
open_file(const char *filename)
{
	FILE	   *file = AllocateFile(filename, PG_BINARY_R);

	if (file == NULL)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", filename)));
	return file;
}

/* A file is in UTF-8. */
char *
cqrs_load_source_text(const CqrsLoadSource *source, const CqrsLoadLine *line)
{
	if (source->filename == NULL)
		return line->text;
	return pg_any_to_server(line->text, line->length, PG_UTF8);
}
