/*-------------------------------------------------------------------------
 *
 * handled.c
 *	  The messages that handlers have had, so that each is handled once.
 *
 * A handler may do more than write a row, so revisions do not show that a
 * message was handled before.  The transaction that calls the handler, or that
 * stores the message in cqrs.failed, puts the message on a list.  If the
 * connection ends between that commit and the acknowledgement, the broker
 * delivers the message again, and the consumer finds the message on the list.
 * A retry of a failed message does not look at the list: the message is on it,
 * and the handler is to be called.
 *
 * The list has digests.  A message with an id is recognised by the id together
 * with its contents: nothing forces other programs to give each message an id
 * of its own.  "expires" and "retries" are left out, because a master that sends
 * a message again computes "expires" anew.  A message without an id is
 * recognised by its whole body, and only if the broker says that it was
 * delivered before: two messages may have one body, such as two SYNCs of a row
 * that has not changed.  The digest has 128 bits, and withstands accidents, no
 * attacks: whoever may publish to the queue can write to the replica anyway.
 *
 * The list is in two tables, because DELETE would leave as much to vacuum as
 * there are messages.  One is written to; after TURN_INTERVAL the other one is
 * emptied by TRUNCATE, and is written to from then on.  So a message stays for
 * one to two intervals.  cqrs.handled_turn says which table is written to, and
 * since when.  A turn takes place only after a message has come that was not
 * delivered before: messages that are delivered again because of a lost
 * connection come first, even if that takes days.  If the clock was set back,
 * the interval begins anew.
 *
 * Locks.  A turn takes ACCESS EXCLUSIVE on the other table, and waits for no
 * lock: if it is not free, the next look tries again.  Nobody else needs these
 * tables, so it does not matter how long the commit takes.  On a hot standby
 * the TRUNCATE conflicts with sessions that read the tables, and so with none.
 *
 * Tables are read and written directly, whatever the rights of the role that a
 * message is applied with.  Their locks are kept to the end of the
 * transaction, because taking them anew for each message costs time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "common/hashfn.h"
#include "postmaster/interrupt.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "base/compat.h"
#include "base/objects.h"
#include "consume/handled.h"
#include "worker/worker.h"

#define TURN_INTERVAL	USECS_PER_DAY
/* How often to check whether a turn is due. */
#define LOOK_INTERVAL	USECS_PER_MINUTE

/* Columns of cqrs.handled_turn */
enum
{
	TURN_CURRENT = 1,
	TURN_SINCE,
	TURN_NATTS = TURN_SINCE
};

/* The table that is written to; -1: not known yet. */
static int	current = -1;

static bool table_has(int table, const pg_uuid_t *digest);
static void digest_of(const CqrsIncoming *message, pg_uuid_t *digest);
static void absorb(uint64 *hashes, const char *data, Size length);
static void absorb_text(uint64 *hashes, const char *text);
static void turn(TimestampTz now);
static TimestampTz read_turn(Relation rel, HeapTuple *tuple);
static bool empty(Oid table);

bool
cqrs_handled_has(const CqrsIncoming *message, bool redelivered)
{
	pg_uuid_t	digest;

	if (message->message_id == NULL && !redelivered)
		return false;
	digest_of(message, &digest);
	for (int i = 0; i < CQRS_HANDLED_TABLES; i++)
	{
		if (table_has(i, &digest))
			return true;
	}
	return false;
}

/* Whether one of the tables has a digest.  Its lock is kept. */
static bool
table_has(int table, const pg_uuid_t *digest)
{
	Relation	rel = table_open(cqrs_objects_get(false)->handled[table],
								 AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	bool		found;

	/* The digest is the only column. */
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ,
				UUIDPGetDatum(digest));
	scan = systable_beginscan(rel,
							  cqrs_objects_get(false)->handled_index[table],
							  true, GetActiveSnapshot(), 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, NoLock);
	return found;
}

void
cqrs_handled_add(const CqrsIncoming *message)
{
	const CqrsObjects *objects = cqrs_objects_get(false);
	Relation	rel;
	HeapTuple	tuple;
	pg_uuid_t	digest;
	Datum		value = UUIDPGetDatum(&digest);
	bool		isnull = false;

	if (current < 0)
	{
		rel = table_open(objects->handled_turn, AccessShareLock);
		(void) read_turn(rel, &tuple);
		table_close(rel, AccessShareLock);
	}
	digest_of(message, &digest);
	rel = table_open(objects->handled[current], RowExclusiveLock);
	tuple = heap_form_tuple(RelationGetDescr(rel), &value, &isnull);
	CatalogTupleInsert(rel, tuple);
	heap_freetuple(tuple);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

bool
cqrs_handled_is_same(const CqrsIncoming *a, const CqrsIncoming *b)
{
	return a->signal == b->signal &&
		strcmp(a->message_id, b->message_id) == 0 &&
		strcmp(a->cqrs_id, b->cqrs_id) == 0 &&
		strcmp(a->instance_pk, b->instance_pk) == 0 &&
		strcmp(a->instance_data, b->instance_data) == 0;
}

/* What the list has of a message, by which it is found there. */
static void
digest_of(const CqrsIncoming *message, pg_uuid_t *digest)
{
	/* Their initial values make them different functions. */
	uint64		hashes[] = {0, 1};
	char		signal = message->signal;

	StaticAssertStmt(sizeof(hashes) == sizeof(digest->data),
					 "the hashes fill the digest");
	if (message->message_id == NULL)
		absorb(hashes, message->body, message->length);
	else
	{
		absorb(hashes, &signal, sizeof(signal));
		absorb_text(hashes, message->message_id);
		absorb_text(hashes, message->cqrs_id);
		absorb_text(hashes, message->instance_pk);
		absorb_text(hashes, message->instance_data);
	}
	memcpy(digest->data, hashes, sizeof(hashes));
}

/* Add data to both hashes. */
static void
absorb(uint64 *hashes, const char *data, Size length)
{
	for (int i = 0; i < 2; i++)
		hashes[i] = hash_bytes_extended((const unsigned char *) data,
										(int) length, hashes[i]);
}

/* With the zero byte, which keeps one text apart from the next. */
static void
absorb_text(uint64 *hashes, const char *text)
{
	absorb(hashes, text, strlen(text) + 1);
}

void
cqrs_handled_turn(void)
{
	static TimestampTz looked_at = 0;
	MemoryContext caller = CurrentMemoryContext;
	TimestampTz now = GetCurrentTimestamp();

	if (now >= looked_at && now < looked_at + LOOK_INTERVAL)
		return;
	looked_at = now;
	/* A synchronous standby that is down must not hold up a shutdown. */
	cqrs_worker_set_cancellable(!ShutdownRequestPending);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	turn(now);
	PopActiveSnapshot();
	CommitTransactionCommand();
	cqrs_worker_set_cancellable(false);
	MemoryContextSwitchTo(caller);
}

/*
 * In a transaction: write to the other table from now on, if the interval is
 * over and no lock is in the way.
 */
static void
turn(TimestampTz now)
{
	const CqrsObjects *objects = cqrs_objects_get(false);
	Datum		values[TURN_NATTS] = {0};
	bool		nulls[TURN_NATTS] = {false};
	bool		replaces[] = {true, true};
	Relation	rel;
	HeapTuple	tuple;
	TimestampTz since;

	if (!ConditionalLockRelationOid(objects->handled_turn, RowExclusiveLock))
		return;
	rel = table_open(objects->handled_turn, NoLock);
	since = read_turn(rel, &tuple);
	if (since > now ||
		(since <= now - TURN_INTERVAL && empty(objects->handled[1 - current])))
	{
		if (since <= now)
			current = 1 - current;
		values[TURN_CURRENT - 1] = Int32GetDatum(current);
		values[TURN_SINCE - 1] = TimestampTzGetDatum(now);
		CatalogTupleUpdate(rel, &tuple->t_self,
						   heap_modify_tuple(tuple, RelationGetDescr(rel),
											 values, nulls, replaces));
	}
	table_close(rel, NoLock);
}

/*
 * Read the row of cqrs.handled_turn: set "current", and return since when.  The
 * tuple is a copy.
 */
static TimestampTz
read_turn(Relation rel, HeapTuple *tuple)
{
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0,
										  NULL);
	Datum		values[TURN_NATTS];
	bool		nulls[TURN_NATTS];

	*tuple = systable_getnext(scan);
	if (!HeapTupleIsValid(*tuple))
		elog(ERROR, "cqrs.handled_turn has no row");
	*tuple = heap_copytuple(*tuple);
	systable_endscan(scan);
	heap_deform_tuple(*tuple, RelationGetDescr(rel), values, nulls);
	current = DatumGetInt32(values[TURN_CURRENT - 1]) == 0 ? 0 : 1;
	return DatumGetTimestampTz(values[TURN_SINCE - 1]);
}

/*
 * Empty a table if its lock is free.  The lock is kept until the end of the
 * transaction.  Returns whether the table is empty.
 */
static bool
empty(Oid table)
{
	Relation	rel;

	if (!ConditionalLockRelationOid(table, AccessExclusiveLock))
		return false;
	rel = table_open(table, NoLock);
	if (RelationGetNumberOfBlocks(rel) > 0)
		cqrs_truncate(rel);
	table_close(rel, NoLock);
	return true;
}
