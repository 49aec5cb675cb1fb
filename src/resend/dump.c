/*-------------------------------------------------------------------------
 *
 * dump.c
 *	  cqrs_bulk_dump: the rows of a master as django-cqrs's cqrs_bulk_load
 *	  reads them, as rows or into a file on the server.
 *
 * The file is written under another name in the same directory, and renamed
 * when it is complete and on disk.  If an existing file must not be
 * overwritten, an empty file reserves the name first, so that of several dumps
 * to one name only one begins.  If the dump ends early for any reason, both
 * files are removed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compose/instance_data.h"
#include "resend/cursor.h"
#include "resend/progress.h"

PG_FUNCTION_INFO_V1(cqrs_bulk_dump);
PG_FUNCTION_INFO_V1(cqrs_bulk_dump_file);

#define FETCH_ROWS	1000
#define WRITE_BYTES	(64 * 1024)

/* cqrs_bulk_dump(cqrs_id) in progress */
typedef struct Dump
{
	CqrsCursor *cursor;
	text	   *lines[FETCH_ROWS];	/* read ahead */
	int			nlines;
	int			next;
	MemoryContext lines_context;	/* reset before each read */
} Dump;

/* cqrs_bulk_dump(cqrs_id, filename) in progress */
typedef struct DumpFile
{
	const char *name;
	char	   *temporary;
	bool		reserved;		/* an empty file of ours reserves the name */
	bool		created;		/* the temporary file exists */
	int			fd;
	StringInfoData buffer;
	int64		bytes;			/* written */
} DumpFile;

static Dump *begin_dump(const char *cqrs_id);
static bool fetch_lines(Dump *dump);
static void append_line(CqrsCursor *cursor, const char *data, int length,
						void *arg);
static void check_file_name(const char *name);
static int64 write_rows(CqrsCursor *cursor, DumpFile *file);
static void append_row(CqrsCursor *cursor, const char *data, int length,
					   void *arg);
static void create_files(DumpFile *file, bool overwrite);
static int	create_file(const char *name, bool reserves);
static void flush_file(DumpFile *file);
static void remove_files(int code, Datum arg);

/* cqrs_bulk_dump(cqrs_id text) RETURNS SETOF text */
Datum
cqrs_bulk_dump(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	Dump	   *dump;

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext caller;

		context = SRF_FIRSTCALL_INIT();
		caller = MemoryContextSwitchTo(context->multi_call_memory_ctx);
		dump = begin_dump(cqrs_master_id_arg(fcinfo, 0));
		cqrs_cursor_attach(dump->cursor, fcinfo);
		context->user_fctx = dump;
		MemoryContextSwitchTo(caller);
		/* The first line names the master. */
		SRF_RETURN_NEXT(context,
						CStringGetTextDatum(dump->cursor->master->cqrs_id));
	}

	context = SRF_PERCALL_SETUP();
	dump = context->user_fctx;
	if (dump->next < dump->nlines || fetch_lines(dump))
		SRF_RETURN_NEXT(context,
						PointerGetDatum(dump->lines[dump->next++]));

	cqrs_cursor_detach(dump->cursor, fcinfo);
	SRF_RETURN_DONE(context);
}

/* A cursor over all rows of the master, as the caller may read them. */
static Dump *
begin_dump(const char *cqrs_id)
{
	Dump	   *dump = palloc0(sizeof(Dump));

	dump->cursor = cqrs_cursor_begin(cqrs_id);
	cqrs_instance_data_check_owner(dump->cursor->relation,
								   dump->cursor->master);
	dump->lines_context = AllocSetContextCreate(CurrentMemoryContext,
												"cqrs dump lines",
												ALLOCSET_DEFAULT_SIZES);
	cqrs_cursor_query(dump->cursor, cqrs_cursor_row_query(dump->cursor, NULL));
	return dump;
}

/* Read the next rows; false at the end. */
static bool
fetch_lines(Dump *dump)
{
	MemoryContextReset(dump->lines_context);
	dump->next = 0;
	dump->nlines = 0;
	return cqrs_cursor_fetch_data(dump->cursor, FETCH_ROWS, append_line,
								  dump) > 0;
}

/* For cqrs_cursor_fetch_data(): keep a line of the dump. */
static void
append_line(CqrsCursor *cursor, const char *data, int length, void *arg)
{
	Dump	   *dump = arg;
	MemoryContext caller = MemoryContextSwitchTo(dump->lines_context);

	dump->lines[dump->nlines++] = cstring_to_text_with_len(data, length);
	MemoryContextSwitchTo(caller);
}

/*
 * cqrs_bulk_dump(cqrs_id text, filename text, overwrite boolean)
 * RETURNS bigint
 */
Datum
cqrs_bulk_dump_file(PG_FUNCTION_ARGS)
{
	char	   *cqrs_id = cqrs_master_id_arg(fcinfo, 0);
	char	   *name;
	bool		overwrite = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	CqrsCursor *cursor;
	DumpFile	file = {0};
	int64		nrows;

	if (!has_privs_of_role(GetUserId(), ROLE_PG_WRITE_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to write a file on the server"),
				 errdetail("Only members of the role \"pg_write_server_files\" may write files on the server."),
				 errhint("Anyone can write the rows of cqrs_bulk_dump(cqrs_id) to a file of the client, for example with psql.")));
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("filename must not be null"),
				 errhint("Give the absolute path of a file on the server, or dump to the client with cqrs_bulk_dump(cqrs_id).")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	canonicalize_path(name);
	check_file_name(name);

	cursor = cqrs_cursor_begin(cqrs_id);
	cqrs_instance_data_check_owner(cursor->relation, cursor->master);
	cqrs_cursor_query(cursor, cqrs_cursor_row_query(cursor, NULL));
	file.name = name;
	file.temporary = psprintf("%s.cqrs_%d", name, MyProcPid);
	file.fd = -1;

	/* A session that is terminated ends by FATAL, which skips PG_CATCH(). */
	PG_ENSURE_ERROR_CLEANUP(remove_files, PointerGetDatum(&file));
	{
		create_files(&file, overwrite);
		nrows = write_rows(cursor, &file);
		if (durable_rename(file.temporary, file.name, ERROR) != 0)
			elog(ERROR, "could not rename file \"%s\"", file.temporary);
	}
	PG_END_ENSURE_ERROR_CLEANUP(remove_files, PointerGetDatum(&file));

	cqrs_cursor_end(cursor);
	PG_RETURN_INT64(nrows);
}

/*
 * Raise an error unless the path is absolute, and any file there is a regular
 * one.
 */
static void
check_file_name(const char *name)
{
	struct stat st;

	if (!is_absolute_path(name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("relative path not allowed for a dump on the server"),
				 errdetail("The path is \"%s\".", name),
				 errhint("Give the absolute path of a file on the server.")));
	if (stat(name, &st) == 0 && !S_ISREG(st.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a regular file", name),
				 errdetail("The dump would replace the file by a regular one."),
				 errhint("Name another file.")));
}

/* Write the first line and all rows. */
static int64
write_rows(CqrsCursor *cursor, DumpFile *file)
{
	CqrsProgress progress;
	int64		nrows = 0;
	uint64		fetched;

	initStringInfo(&file->buffer);
	cqrs_progress_begin(&progress, CQRS_PROGRESS_DUMP,
						cursor->master->cqrs_id, cursor->relation->relid,
						cursor->query->estimate);
	appendStringInfoString(&file->buffer,
						   pg_server_to_any(cursor->master->cqrs_id,
											strlen(cursor->master->cqrs_id),
											PG_UTF8));
	while ((fetched = cqrs_cursor_fetch_data(cursor, FETCH_ROWS, append_row,
											 file)) > 0)
	{
		CHECK_FOR_INTERRUPTS();
		nrows += fetched;
		cqrs_progress_update(&progress, CQRS_PROGRESS_READING, nrows,
							 file->bytes, NULL);
	}
	flush_file(file);
	if (CloseTransientFile(file->fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", file->temporary)));
	file->fd = -1;
	cqrs_progress_end(&progress);
	return nrows;
}

/* The same for a file: a newline, and the line in UTF-8. */
static void
append_row(CqrsCursor *cursor, const char *data, int length, void *arg)
{
	DumpFile   *file = arg;

	appendStringInfoChar(&file->buffer, '\n');
	appendStringInfoString(&file->buffer,
						   pg_server_to_any(data, length, PG_UTF8));
	if (file->buffer.len >= WRITE_BYTES)
		flush_file(file);
}

/*
 * Create the temporary file, after the name has been reserved unless
 * "overwrite".
 */
static void
create_files(DumpFile *file, bool overwrite)
{
	if (!overwrite)
	{
		if (CloseTransientFile(create_file(file->name, true)) != 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not close file \"%s\": %m", file->name)));
		file->reserved = true;
	}
	file->fd = create_file(file->temporary, false);
	file->created = true;
}

/*
 * Open a new file.  "reserves": its name is the one that the user has given.
 */
static int
create_file(const char *name, bool reserves)
{
	int			fd = OpenTransientFilePerm(name, O_CREAT | O_EXCL | O_WRONLY | PG_BINARY,
										   S_IRUSR | S_IWUSR);

	bool		exists = fd < 0 && errno == EEXIST;

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", name),
				 exists && reserves ?
				 errhint("Give another name, or set \"overwrite\" to true.") : 0));
	return fd;
}

/* Write the buffer to the file. */
static void
flush_file(DumpFile *file)
{
	char	   *next = file->buffer.data;
	int			left = file->buffer.len;

	while (left > 0)
	{
		ssize_t		written;

		errno = 0;
		written = write(file->fd, next, left);
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
		{
			if (errno == 0)
				errno = ENOSPC;
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not write to file \"%s\": %m",
							file->temporary)));
		}
		next += written;
		left -= written;
		file->bytes += written;
	}
	resetStringInfo(&file->buffer);
}

/* Error cleanup: a dump that fails leaves no file. */
static void
remove_files(int code, Datum arg)
{
	DumpFile   *file = (DumpFile *) DatumGetPointer(arg);

	if (file->created)
		(void) unlink(file->temporary);
	if (file->reserved)
		(void) unlink(file->name);
}
