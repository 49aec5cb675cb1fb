/*-------------------------------------------------------------------------
 *
 * capture.h
 *	  Triggers and transaction callbacks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_CAPTURE_H
#define CQRS_CAPTURE_H

#include "postgres.h"

#include "storage/itemptr.h"
#include "utils/relcache.h"

/* Register the callbacks; called once, while the library is preloaded. */
extern void cqrs_capture_init(void);

/*
 * "rel" becomes a master's table in this transaction, which may have changed
 * some of its rows before.
 */
extern void cqrs_capture_begin_late(Relation rel);

/*
 * Keep the versions of rows that the active snapshot sees until the end of the
 * transaction, for notes of the kind CQRS_RESENT.
 */
extern void cqrs_capture_keep_snapshot(void);

/* Whether the transaction has changes whose messages are not committed yet. */
extern bool cqrs_capture_has_unsent(void);

/* The transaction has written messages other than by what it has noted. */
extern void cqrs_capture_has_written(void);

#endif							/* CQRS_CAPTURE_H */
