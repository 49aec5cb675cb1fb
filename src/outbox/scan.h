/*-------------------------------------------------------------------------
 *
 * scan.h
 *	  The messages of the outbox, read in the order of their ids.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_SCAN_H
#define CQRS_SCAN_H

#include "postgres.h"

#include "outbox/message.h"

typedef struct CqrsOutboxScan CqrsOutboxScan;

/*
 * Read the messages with from <= id <= to in ascending order, under the active
 * snapshot.  The strings of a message last until the next call.
 */
extern CqrsOutboxScan *cqrs_scan_begin(int64 from, int64 to);

/*
 * The same with the messages of open transactions, under no snapshot: to find out
 * whether there are any, not to send them.
 */
extern CqrsOutboxScan *cqrs_scan_begin_dirty(int64 from, int64 to);
extern bool cqrs_scan_next(CqrsOutboxScan *scan, CqrsMessage *message);
extern void cqrs_scan_end(CqrsOutboxScan *scan);

/* Flush the WAL up to the commits of all messages that "scan" has returned. */
extern void cqrs_scan_flush_wal(CqrsOutboxScan *scan);

#endif							/* CQRS_SCAN_H */
