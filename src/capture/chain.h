/*-------------------------------------------------------------------------
 *
 * chain.h
 *	  The update chain of a row, from a version that was noted to the last.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_CHAIN_H
#define CQRS_CHAIN_H

#include "postgres.h"

#include "access/htup_details.h"
#include "executor/tuptable.h"
#include "storage/buf.h"
#include "utils/hsearch.h"
#include "utils/relcache.h"

/* How a chain ends. */
typedef enum CqrsFate
{
	CQRS_FATE_LIVE,
	CQRS_FATE_DELETED,
	CQRS_FATE_MOVED				/* to another partition */
} CqrsFate;

/*
 * A version of a row in a pinned buffer, and what this transaction did to it
 */
typedef struct CqrsVersion
{
	Buffer		buffer;
	HeapTupleData tuple;
	bool		updated;		/* or deleted */
	bool		moved;			/* to another partition */
	ItemPointerData next;		/* of an updated version; itself if deleted */
} CqrsVersion;

typedef struct CqrsChain
{
	MemoryContext context;		/* holds what is remembered */
	CqrsVersion noted;			/* the ends of the chain followed last */
	CqrsVersion *last;			/* the noted version itself, or "later" */
	CqrsVersion later;
	HTAB	   *seen;			/* versions passed; NULL until needed */
} CqrsChain;

/* Versions that are remembered live in the current context. */
extern void cqrs_chain_init(CqrsChain *chain);

/*
 * Go from the version at "tid" (then in chain->noted) to the last one of its
 * row (then in chain->last).  With "remember", all versions on the way are
 * remembered as seen.
 */
extern CqrsFate cqrs_chain_follow(CqrsChain *chain, Relation rel,
								  ItemPointer tid, bool remember);

/*
 * Lock a row against writers, once earlier lockers have ended, and put its
 * last version into the slot.  NULL if they have deleted the row or moved it
 * to another partition.
 */
extern HeapTuple cqrs_chain_lock(Relation rel, ItemPointerData tid,
								 TupleTableSlot *slot);

/* Unpin the versions; to be called before the table is closed. */
extern void cqrs_chain_release(CqrsChain *chain);

/* Whether a chain that was followed with "remember" has passed a version. */
extern bool cqrs_chain_seen(CqrsChain *chain, Relation rel, ItemPointer tid);

/* Forget all versions that were seen. */
extern void cqrs_chain_forget(CqrsChain *chain);

/*
 * Whether this transaction has updated or deleted a version and not rolled
 * that back.  The caller holds the buffer's lock, or is in a scan.
 */
extern bool cqrs_chain_updated_by_us(HeapTupleHeader header);

#endif							/* CQRS_CHAIN_H */
