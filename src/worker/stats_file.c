/*-------------------------------------------------------------------------
 *
 * stats_file.c
 *	  Counters of workers, kept over a clean restart of the server.
 *
 * The postmaster writes the counters to a file when all other processes have
 * ended in order, and reads and removes the file when it starts.  So nothing
 * is kept over a crash or an immediate shutdown, and no backup of a running
 * server has the file.  PostgreSQL does this with its own statistics, and
 * pg_stat_statements with its own; pgstat_register_kind() of PostgreSQL 18
 * would do it for us, but not in the versions before.
 *
 * Only counters are kept, and the time since when they count.  All else in the
 * roster is about processes, which are gone.  The last error is not kept
 * either: until there is a new one, it would be taken for a current error.
 *
 * A database gets its slot back, or loses its counters if none is free.  If
 * the database is gone, the launcher frees the slot.  Databases that no longer
 * have the extension are not written, so that their slots become free.
 *
 * The file is a header, records and a checksum.  "layout" stands for the names
 * of the counters and the sizes, so that no library takes the counters of
 * another one for its own.  A file that cannot be used is ignored as a whole,
 * and this is logged.  Nothing here raises an error: the server starts and
 * ends without these counters, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "storage/ipc.h"

#include "base/slot.h"
#include "worker/roster.h"
#include "worker/stats_file.h"

#define STATS_FILE	PGSTAT_STAT_PERMANENT_DIRECTORY "/cqrs.stat"
#define STATS_TEMPORARY	STATS_FILE ".tmp"

/* To be changed with each change of Header, of Record, or of their meaning. */
#define STATS_MAGIC	0x43515301

typedef struct Header
{
	uint32		magic;
	uint32		layout;
} Header;

/* A process that has counted anything; without padding. */
typedef struct Record
{
	Oid			database;
	uint16		kind;
	uint16		number;
	TimestampTz since;
	uint64		counters[CQRS_WORKER_MAX_COUNTERS];
} Record;

/* More than all records of as many databases as "cqrs.max_databases" allows. */
#define STATS_MAX_BYTES	(256 * 1024 * 1024)

static shmem_startup_hook_type previous_shmem_startup_hook;

static void startup(void);
static void load(void);
static const char *read_file(char **content, size_t *size);
static const char *check_content(const char *content, size_t size);
static void restore_all(const char *content, size_t size);
static void restore(const Record *record);
static void save(int code, Datum arg);
static bool ended_in_order(void);
static bool write_content(FILE *file);
static bool write_slot(FILE *file, pg_crc32c *crc, int slot);
static bool is_kept(int slot);
static bool put(FILE *file, pg_crc32c *crc, const void *data, size_t size);
static uint32 layout(void);

void
cqrs_stats_file_init(void)
{
	previous_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup;
}

/*
 * shmem_startup_hook.  After a crash the postmaster calls it again; then there
 * is no file.
 */
static void
startup(void)
{
	if (previous_shmem_startup_hook)
		previous_shmem_startup_hook();
	if (IsUnderPostmaster)
		return;
	load();
	on_shmem_exit(save, (Datum) 0);
}

/* Read the file, if there is one, and remove it. */
static void
load(void)
{
	char	   *content = NULL;
	size_t		size = 0;
	const char *problem = read_file(&content, &size);

	if (problem == NULL && content != NULL)
		problem = check_content(content, size);
	if (problem != NULL)
		ereport(LOG,
				(errmsg("counters of cqrs begin at zero, because file \"%s\" cannot be used",
						STATS_FILE),
				 errdetail("%s", problem)));
	else if (content != NULL)
		restore_all(content, size);
	if (content != NULL)
		pfree(content);

	/* The file must not exist after a crash. */
	if (unlink(STATS_FILE) != 0 && errno != ENOENT)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", STATS_FILE)));
}

/*
 * The content of the file, or NULL when there is none.  Returns a sentence if
 * it cannot be read, else NULL.
 */
static const char *
read_file(char **content, size_t *size)
{
	struct stat status;
	FILE	   *file;
	size_t		nread;

	if (stat(STATS_FILE, &status) != 0)
		return errno == ENOENT ? NULL : psprintf("The file cannot be found: %m.");
	/* To open a FIFO would keep the server from starting. */
	if (!S_ISREG(status.st_mode))
		return "The file is not a regular file.";
	if (status.st_size > STATS_MAX_BYTES)
		return "The file is too large.";
	*size = status.st_size;
	*content = palloc_extended(*size + 1, MCXT_ALLOC_NO_OOM);
	if (*content == NULL)
		return "There is not enough memory to read the file.";
	file = AllocateFile(STATS_FILE, PG_BINARY_R);
	if (file == NULL)
		return psprintf("The file cannot be opened: %m.");
	nread = fread(*content, 1, *size, file);
	FreeFile(file);
	return nread == *size ? NULL : "The file cannot be read.";
}

/* Returns a sentence if the content is not what this library writes, else NULL. */
static const char *
check_content(const char *content, size_t size)
{
	Header		header;
	pg_crc32c	stored;
	pg_crc32c	crc;

	if (size < sizeof(Header) + sizeof(stored))
		return "The file is too short.";
	memcpy(&header, content, sizeof(header));
	if (header.magic != STATS_MAGIC || header.layout != layout())
		return "Another version of the library has written the file, or it is damaged.";
	memcpy(&stored, content + size - sizeof(stored), sizeof(stored));
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, content, size - sizeof(stored));
	FIN_CRC32C(crc);
	if (!EQ_CRC32C(crc, stored) ||
		(size - sizeof(Header) - sizeof(stored)) % sizeof(Record) != 0)
		return "The file is damaged.";
	return NULL;
}

/* Restore what the records of a valid file say. */
static void
restore_all(const char *content, size_t size)
{
	size_t		count = (size - sizeof(Header)) / sizeof(Record);

	LWLockAcquire(cqrs_slot_lock, LW_EXCLUSIVE);
	for (size_t i = 0; i < count; i++)
	{
		Record		record;

		memcpy(&record, content + sizeof(Header) + i * sizeof(Record),
			   sizeof(record));
		restore(&record);
	}
	LWLockRelease(cqrs_slot_lock);
}

/* A checksum can be forged, so nothing in a record is used unchecked. */
static void
restore(const Record *record)
{
	CqrsRosterKind *workers;
	int			slot;

	if (!OidIsValid(record->database) || record->kind >= CQRS_NWORKERKINDS ||
		cqrs_kind_class(record->kind) == NULL ||
		record->number >= CQRS_MAX_LANES ||
		!IS_VALID_TIMESTAMP(record->since))
		return;
	slot = cqrs_slot_take(record->database);
	if (slot < 0)
		return;
	cqrs_rosters[slot].since = record->since;
	workers = &cqrs_rosters[slot].kinds[record->kind];
	workers->kept = true;
	for (int i = 0; i < cqrs_kind_class(record->kind)->first_gauge; i++)
		pg_atomic_write_u64(&workers->processes[record->number].counters[i],
							record->counters[i]);
}

/*
 * Exit callback of the postmaster.  Without an error code no other process is
 * left, so no lock is needed.
 */
static void
save(int code, Datum arg)
{
	FILE	   *file;
	bool		written;

	if (code != 0 || !ended_in_order())
		return;
	file = AllocateFile(STATS_TEMPORARY, PG_BINARY_W);
	written = file != NULL && write_content(file);
	if (file != NULL && FreeFile(file) != 0)
		written = false;
	if (!written)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", STATS_TEMPORARY)));
	if (!written || durable_rename(STATS_TEMPORARY, STATS_FILE, LOG) != 0)
		(void) unlink(STATS_TEMPORARY);
}

/*
 * Whether our processes have left the roster.  An immediate shutdown kills them,
 * and has the code 0, too.
 */
static bool
ended_in_order(void)
{
	if (cqrs_roster_server->launcher != NULL)
		return false;
	for (int slot = 0; slot < cqrs_slot_count(); slot++)
	{
		if (cqrs_roster_is_occupied(slot))
			return false;
	}
	return true;
}

/* All of the file.  Returns false if it could not be written. */
static bool
write_content(FILE *file)
{
	Header		header = {.magic = STATS_MAGIC,.layout = layout()};
	pg_crc32c	crc;
	bool		written;

	INIT_CRC32C(crc);
	written = put(file, &crc, &header, sizeof(header));
	for (int slot = 0; slot < cqrs_slot_count() && written; slot++)
	{
		if (is_kept(slot))
			written = write_slot(file, &crc, slot);
	}
	FIN_CRC32C(crc);
	return written && fwrite(&crc, sizeof(crc), 1, file) == 1;
}

/* Write the processes of a database that have counted anything. */
static bool
write_slot(FILE *file, pg_crc32c *crc, int slot)
{
	bool		written = true;

	for (int i = 0; i < CQRS_NWORKERKINDS * CQRS_MAX_LANES && written; i++)
	{
		int			kind = i / CQRS_MAX_LANES;
		int			number = i % CQRS_MAX_LANES;
		CqrsRosterProcess *process =
		&cqrs_rosters[slot].kinds[kind].processes[number];
		Record		record = {
			.database = cqrs_slot_database(slot),
			.kind = kind,
			.number = number,
			.since = cqrs_rosters[slot].since
		};

		if (!cqrs_roster_has_counted(slot, kind, number))
			continue;
		for (int n = 0; n < cqrs_kind_class(kind)->first_gauge; n++)
			record.counters[n] = pg_atomic_read_u64(&process->counters[n]);
		written = put(file, crc, &record, sizeof(record));
	}
	return written;
}

/* Whether a slot has a database that has the extension, as far as known. */
static bool
is_kept(int slot)
{
	bool		kept = false;

	for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
		kept = kept || cqrs_rosters[slot].kinds[kind].wanted ||
			cqrs_rosters[slot].kinds[kind].kept;
	return kept && OidIsValid(cqrs_slot_database(slot));
}

/* Write data, and add it to the checksum. */
static bool
put(FILE *file, pg_crc32c *crc, const void *data, size_t size)
{
	COMP_CRC32C(*crc, data, size);
	return fwrite(data, size, 1, file) == 1;
}

/* A number that changes when a counter, its place or a size does. */
static uint32
layout(void)
{
	const uint32 sizes[] = {sizeof(Header), sizeof(Record), CQRS_MAX_LANES};
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, sizes, sizeof(sizes));
	for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
	{
		const CqrsWorkerClass *class = cqrs_kind_class(kind);

		for (int i = 0; class != NULL && i < class->first_gauge; i++)
			COMP_CRC32C(crc, class->counters[i], strlen(class->counters[i]) + 1);
	}
	FIN_CRC32C(crc);
	return crc;
}
