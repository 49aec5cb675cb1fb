/*-------------------------------------------------------------------------
 *
 * outbox_scan.h
 *	  The messages of the outbox, read in the order of their ids.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_OUTBOX_SCAN_H
#define CQRS_OUTBOX_SCAN_H

#include "postgres.h"

#include "message.h"

typedef struct CqrsOutboxScan CqrsOutboxScan;

/*
 * Reading, under the active snapshot: the messages with from <= id <= to in
 * ascending order.  The strings of a message last until the next call.
 */
extern CqrsOutboxScan *cqrs_outbox_scan_begin(int64 from, int64 to);
extern bool cqrs_outbox_scan_next(CqrsOutboxScan *scan, CqrsMessage *message);
extern void cqrs_outbox_scan_end(CqrsOutboxScan *scan);

/* Write the WAL out up to the commits of all that "scan" has returned. */
extern void cqrs_outbox_scan_flush_wal(CqrsOutboxScan *scan);

#endif							/* CQRS_OUTBOX_SCAN_H */
