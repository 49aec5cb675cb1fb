/*-------------------------------------------------------------------------
 *
 * chain.c
 *	  The update chain of a row, from a version that was noted to the last.
 *
 * The walk is over the versions that the current transaction has made and not
 * rolled back; cqrs_chain_lock() goes on over the versions of other
 * transactions.  No version on the way can have been pruned, because the
 * current transaction, which still runs, deleted its predecessor.  So a
 * missing version is an internal error.
 *
 * The two ends of the chain followed last stay pinned until another chain is
 * followed or the table is left; after an ERROR the resource owner unpins
 * them.  The notes of a statement lead from page to page in order, on both
 * ends, so that most reads find their page pinned.  A buffer is locked only
 * while the header of a version is read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "capture/chain.h"

typedef struct SeenKey
{
	Oid			file;
	BlockNumber block;
	OffsetNumber offset;
	uint16		unused;			/* padding that is zero */
} SeenKey;

static void read_version(Relation rel, CqrsVersion *version, ItemPointer tid);
static void release_version(CqrsVersion *version);
static bool look_up_seen(CqrsChain *chain, Relation rel, ItemPointer tid,
						 bool remember);

void
cqrs_chain_init(CqrsChain *chain)
{
	chain->context = CurrentMemoryContext;
	chain->noted.buffer = InvalidBuffer;
	chain->last = NULL;
	chain->later.buffer = InvalidBuffer;
	chain->seen = NULL;
}

CqrsFate
cqrs_chain_follow(CqrsChain *chain, Relation rel, ItemPointer tid,
				  bool remember)
{
	CqrsVersion *version = &chain->noted;

	read_version(rel, version, tid);
	for (;;)
	{
		if (remember)
			(void) look_up_seen(chain, rel, &version->tuple.t_self, true);
		chain->last = version;
		if (!version->updated)
			return CQRS_FATE_LIVE;
		if (version->moved)
			return CQRS_FATE_MOVED;
		if (ItemPointerEquals(&version->next, &version->tuple.t_self))
			return CQRS_FATE_DELETED;
		read_version(rel, &chain->later, &version->next);
		version = &chain->later;
	}
}

HeapTuple
cqrs_chain_lock(Relation rel, ItemPointerData tid, TupleTableSlot *slot)
{
	TM_FailureData failure;
	TM_Result	result;

	/*
	 * Not TUPLE_LOCK_FLAG_FIND_LAST_VERSION, which raises an error for a row
	 * that was moved to another partition.  The next version cannot have been
	 * pruned: the transaction that made it has committed after our snapshot
	 * was taken.
	 */
	while ((result = table_tuple_lock(rel, &tid, GetActiveSnapshot(), slot,
									  GetCurrentCommandId(true),
									  LockTupleShare, LockWaitBlock, 0,
									  &failure)) == TM_Updated)
	{
		if (ItemPointerIndicatesMovedPartitions(&failure.ctid))
			return NULL;
		tid = failure.ctid;
	}
	if (result == TM_Ok)
		return ExecFetchSlotHeapTuple(slot, false, NULL);
	if (result != TM_Deleted)
		elog(ERROR, "unexpected result %d of locking a row of \"%s\"",
			 result, RelationGetRelationName(rel));
	return NULL;
}

void
cqrs_chain_release(CqrsChain *chain)
{
	release_version(&chain->noted);
	release_version(&chain->later);
}

bool
cqrs_chain_seen(CqrsChain *chain, Relation rel, ItemPointer tid)
{
	return look_up_seen(chain, rel, tid, false);
}

void
cqrs_chain_forget(CqrsChain *chain)
{
	if (chain->seen != NULL)
		hash_destroy(chain->seen);
	chain->seen = NULL;
}

bool
cqrs_chain_updated_by_us(HeapTupleHeader header)
{
	TransactionId xmax;

	if ((header->t_infomask & HEAP_XMAX_INVALID) ||
		HEAP_XMAX_IS_LOCKED_ONLY(header->t_infomask))
		return false;
	xmax = HeapTupleHeaderGetUpdateXid(header);
	return TransactionIdIsValid(xmax) &&
		TransactionIdIsCurrentTransactionId(xmax);
}

/*
 * Pin the buffer of a version and describe it; unpin the version described
 * before.  "tid" may point into "version".
 */
static void
read_version(Relation rel, CqrsVersion *version, ItemPointer tid)
{
	Page		page;
	ItemId		item;
	HeapTupleHeader header;

	version->tuple.t_self = *tid;
	tid = &version->tuple.t_self;
	version->buffer = ReleaseAndReadBuffer(version->buffer, rel,
										   ItemPointerGetBlockNumber(tid));
	LockBuffer(version->buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(version->buffer);
	if (ItemPointerGetOffsetNumber(tid) > PageGetMaxOffsetNumber(page))
		elog(ERROR, "changed row (%u,%u) of table \"%s\" is missing",
			 ItemPointerGetBlockNumber(tid), ItemPointerGetOffsetNumber(tid),
			 RelationGetRelationName(rel));
	item = PageGetItemId(page, ItemPointerGetOffsetNumber(tid));
	if (!ItemIdIsNormal(item))
		elog(ERROR, "changed row (%u,%u) of table \"%s\" is missing",
			 ItemPointerGetBlockNumber(tid), ItemPointerGetOffsetNumber(tid),
			 RelationGetRelationName(rel));

	header = (HeapTupleHeader) PageGetItem(page, item);
	version->tuple.t_data = header;
	version->tuple.t_len = ItemIdGetLength(item);
	version->tuple.t_tableOid = RelationGetRelid(rel);
	version->updated = cqrs_chain_updated_by_us(header);
	version->moved = HeapTupleHeaderIndicatesMovedPartitions(header);
	version->next = header->t_ctid;
	LockBuffer(version->buffer, BUFFER_LOCK_UNLOCK);
}

static void
release_version(CqrsVersion *version)
{
	if (BufferIsValid(version->buffer))
		ReleaseBuffer(version->buffer);
	version->buffer = InvalidBuffer;
}

/*
 * Whether a version has been passed.  With "remember" it counts as passed from
 * now on.
 */
static bool
look_up_seen(CqrsChain *chain, Relation rel, ItemPointer tid, bool remember)
{
	SeenKey		key = {0};
	bool		found;

	if (chain->seen == NULL)
	{
		HASHCTL		ctl = {0};

		if (!remember)
			return false;
		ctl.keysize = sizeof(SeenKey);
		ctl.entrysize = sizeof(SeenKey);
		ctl.hcxt = chain->context;
		chain->seen = hash_create("cqrs seen versions", 1024, &ctl,
								  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	key.file = cqrs_compat_relation_file(rel);
	key.block = ItemPointerGetBlockNumber(tid);
	key.offset = ItemPointerGetOffsetNumber(tid);
	(void) hash_search(chain->seen, &key,
					   remember ? HASH_ENTER : HASH_FIND, &found);
	return found;
}
