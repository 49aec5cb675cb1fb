/*-------------------------------------------------------------------------
 *
 * seat.c
 *	  The row of cqrs.consumer: what this database consumes, and how far the
 *	  consumer has come with it.
 *
 * The functions of users change queue, quorum, paused, dropping and database,
 * and set epoch to null; the consumer changes the other columns.  Each locks
 * the table against the other for a transaction.
 *
 * The transactions here leave the current memory context as it was.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/caught.h"
#include "base/compat.h"
#include "base/objects.h"
#include "consume/seat.h"
#include "worker/worker.h"

/*
 * How often the consumer tries to lock the row at its end, and the delay
 * between two tries.
 */
#define LEAVE_TRIES		50
#define LEAVE_DELAY_US	10000

/* Columns of cqrs.consumer */
enum
{
	SEAT_ID = 1,
	SEAT_QUEUE,
	SEAT_QUORUM,
	SEAT_PAUSED,
	SEAT_DROPPING,
	SEAT_EPOCH,
	SEAT_RUNNING,
	SEAT_SUSPECT,
	SEAT_TIMELINE,
	SEAT_DATABASE,
	SEAT_NATTS = SEAT_DATABASE
};

static const char *try_change(const int *columns, const NullableDatum *changes,
							  int n, const CqrsSeat *expected);
static void change(const int *columns, const NullableDatum *changes, int n,
				   const CqrsSeat *expected);
static void check_row(const CqrsSeat *expected);
static void write_row(Relation rel, const int *columns,
					  const NullableDatum *changes, int n);
static bool try_leave(void);
static bool write_unlocked(const int *columns, const NullableDatum *changes,
						   int n);
static bool is_dropping(Relation rel, HeapTuple tuple);

CqrsSeat *
cqrs_seat_read(void)
{
	Relation	rel = table_open(cqrs_objects_get(false)->consumer,
								 AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0,
										  NULL);
	HeapTuple	tuple = systable_getnext(scan);
	CqrsSeat   *seat = NULL;

	if (HeapTupleIsValid(tuple))
	{
		Datum		values[SEAT_NATTS];
		bool		nulls[SEAT_NATTS];

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		seat = palloc0(sizeof(CqrsSeat));
		seat->queue = TextDatumGetCString(values[SEAT_QUEUE - 1]);
		seat->quorum = DatumGetBool(values[SEAT_QUORUM - 1]);
		seat->paused = DatumGetBool(values[SEAT_PAUSED - 1]);
		seat->dropping = DatumGetBool(values[SEAT_DROPPING - 1]);
		seat->copied =
			DatumGetObjectId(values[SEAT_DATABASE - 1]) != MyDatabaseId;
		seat->taking_over = nulls[SEAT_EPOCH - 1];
		if (!seat->taking_over)
			seat->epoch = DatumGetInt64(values[SEAT_EPOCH - 1]);
		seat->running = DatumGetBool(values[SEAT_RUNNING - 1]);
		if (!nulls[SEAT_SUSPECT - 1])
			seat->suspect = DatumGetByteaPCopy(values[SEAT_SUSPECT - 1]);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return seat;
}

const char *
cqrs_seat_set_epoch(const char *queue, int64 epoch, bool taking_over)
{
	const CqrsSeat expected = {
		.queue = unconstify(char *, queue),
		.taking_over = taking_over
	};
	const int	columns[] = {SEAT_EPOCH, SEAT_TIMELINE};
	NullableDatum changes[2] = {0};

	changes[0].value = Int64GetDatum(epoch);
	changes[1].value = Int32GetDatum((int32) GetWALInsertionTimeLine());
	/* The timeline stays the one on which consuming began. */
	return try_change(columns, changes, taking_over ? 2 : 1, &expected);
}

const char *
cqrs_seat_set_running(void)
{
	const int	columns[] = {SEAT_RUNNING};
	NullableDatum changes[1] = {0};

	changes[0].value = BoolGetDatum(true);
	return try_change(columns, changes, lengthof(columns), NULL);
}

/*
 * The commit waits neither for a disk nor for a standby; its loss would do no
 * harm.  An exit callback must not wait for a lock, because lock_timeout has
 * no effect there.  If the row stays locked, the next consumer is wary.
 */
void
cqrs_seat_leave(void)
{
	MemoryContext caller = CurrentMemoryContext;

	SetConfigOption("synchronous_commit", "off", PGC_SUSET, PGC_S_OVERRIDE);
	for (int i = 0; i < LEAVE_TRIES && !try_leave(); i++)
		pg_usleep(LEAVE_DELAY_US);
	MemoryContextSwitchTo(caller);
}

/* False if the row is locked. */
static bool
try_leave(void)
{
	const int	columns[] = {SEAT_RUNNING, SEAT_SUSPECT};
	NullableDatum changes[2] = {0};
	bool		locked = true;

	changes[1].isnull = true;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (cqrs_objects_get(true) != NULL)
		locked = write_unlocked(columns, changes, lengthof(columns));
	PopActiveSnapshot();
	CommitTransactionCommand();
	return locked;
}

void
cqrs_seat_clear_suspect(void)
{
	const int	columns[] = {SEAT_SUSPECT};
	NullableDatum changes[1] = {0};

	changes[0].isnull = true;
	(void) write_unlocked(columns, changes, lengthof(columns));
}

/* write_row(), in the current transaction, unless the table is locked. */
static bool
write_unlocked(const int *columns, const NullableDatum *changes, int n)
{
	Oid			relid = cqrs_objects_get(false)->consumer;
	Relation	rel;

	if (!ConditionalLockRelationOid(relid, ShareRowExclusiveLock))
		return false;
	rel = table_open(relid, NoLock);
	write_row(rel, columns, changes, n);
	table_close(rel, NoLock);
	return true;
}

const char *
cqrs_seat_set_suspect(const bytea *digest)
{
	const int	columns[] = {SEAT_SUSPECT};
	NullableDatum changes[1] = {0};

	changes[0].isnull = digest == NULL;
	changes[0].value = PointerGetDatum(digest);
	return try_change(columns, changes, lengthof(columns), NULL);
}

const char *
cqrs_seat_probe(void)
{
	return try_change(NULL, NULL, 0, NULL);
}

const char *
cqrs_seat_delete(void)
{
	return try_change(NULL, NULL, -1, NULL);
}

/* change(); returns its error, or NULL. */
static const char *
try_change(const int *columns, const NullableDatum *changes, int n,
		   const CqrsSeat *expected)
{
	MemoryContext caller = CurrentMemoryContext;
	const char *volatile failure = NULL;

	PG_TRY();
	{
		change(columns, changes, n, expected);
	}
	PG_CATCH();
	{
		cqrs_worker_set_cancellable(false);
		failure = cqrs_caught_abort(caller)->message;
	}
	PG_END_TRY();
	return failure;
}

/*
 * write_row(), in a transaction of its own; with "expected", only if the row
 * has the queue of "expected" and cqrs_consume() was not called since.
 */
static void
change(const int *columns, const NullableDatum *changes, int n,
	   const CqrsSeat *expected)
{
	MemoryContext caller = CurrentMemoryContext;
	Relation	rel;

	/* A synchronous standby that is down must not hold up a shutdown. */
	cqrs_worker_set_cancellable(!ShutdownRequestPending);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	rel = table_open(cqrs_objects_get(false)->consumer,
					 ShareRowExclusiveLock);
	if (expected != NULL)
		check_row(expected);
	write_row(rel, columns, changes, n);
	table_close(rel, NoLock);
	PopActiveSnapshot();
	CommitTransactionCommand();
	cqrs_worker_set_cancellable(false);
	MemoryContextSwitchTo(caller);
}

/* The caller has the lock. */
static void
check_row(const CqrsSeat *expected)
{
	CqrsSeat   *seat = cqrs_seat_read();

	if (seat == NULL || strcmp(seat->queue, expected->queue) != 0 ||
		(seat->taking_over && !expected->taking_over))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the queue to consume was changed concurrently")));
}

/*
 * Change n columns of the row; -1: delete it, unless cqrs_consume() was called
 * since it was to be dropped.
 */
static void
write_row(Relation rel, const int *columns, const NullableDatum *changes,
		  int n)
{
	Datum		values[SEAT_NATTS] = {0};
	bool		nulls[SEAT_NATTS] = {false};
	bool		replaces[SEAT_NATTS] = {false};
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0,
										  NULL);
	HeapTuple	tuple = systable_getnext(scan);

	for (int i = 0; i < n; i++)
	{
		values[columns[i] - 1] = changes[i].value;
		nulls[columns[i] - 1] = changes[i].isnull;
		replaces[columns[i] - 1] = true;
	}
	if (HeapTupleIsValid(tuple) && n < 0)
	{
		if (is_dropping(rel, tuple))
			CatalogTupleDelete(rel, &tuple->t_self);
	}
	else if (HeapTupleIsValid(tuple))
		CatalogTupleUpdate(rel, &tuple->t_self,
						   heap_modify_tuple(tuple, RelationGetDescr(rel),
											 values, nulls, replaces));
	systable_endscan(scan);
}

static bool
is_dropping(Relation rel, HeapTuple tuple)
{
	bool		isnull;

	return DatumGetBool(heap_getattr(tuple, SEAT_DROPPING,
									 RelationGetDescr(rel), &isnull));
}
