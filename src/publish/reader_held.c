/*-------------------------------------------------------------------------
 *
 * reader_held.c
 *	  Reading of the messages of held masters.
 *
 * They are read when the hold's probe or its end asks for them (hold.c), by
 * scans of their own, which continue in the next turn where they stopped.
 *
 * A held master that has been unregistered is given up after some probes: its
 * messages are parked.
 *
 * Belongs to the publisher alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"

#include "base/objects.h"
#include "outbox/parked.h"
#include "outbox/scan.h"
#include "publish/reader.h"
#include "publish/reader_parts.h"

/* Probes of an unregistered master before it is given up. */
#define MAX_PROBES			10
/* The most messages of such a master that are parked in one turn. */
#define PARK_TURN			1000

static bool read_probe(CqrsReader *reader, const CqrsWindow *window,
					   CqrsHold *hold);
static bool read_hold(CqrsReader *reader, CqrsWindow *window, CqrsHold *hold);
static bool park_hold(CqrsReader *reader, CqrsHold *hold);
static void end_hold(CqrsReader *reader, CqrsHold *hold);

bool
cqrs_reader_read_held(CqrsReader *reader, CqrsWindow *window)
{
	CqrsHold   *probe = cqrs_hold_next_probe(reader->holds, window);
	bool		probed = true;
	bool		complete = true;
	List	   *holds;
	ListCell   *lc;

	reader->nlooked = 0;
	if (probe != NULL)
		probed = read_probe(reader, window, probe);
	reader->nlooked = 0;
	holds = list_copy(reader->holds->list);
	foreach(lc, holds)
	{
		CqrsHold   *hold = lfirst(lc);

		if (complete && hold->state == CQRS_HOLD_CATCHING_UP)
			complete = read_hold(reader, window, hold);
	}
	list_free(holds);
	return probed && complete;
}

/*
 * Make a held master's first message the probe.  If it has none, end the hold.
 * Returns false if the turn ends before that.
 */
static bool
read_probe(CqrsReader *reader, const CqrsWindow *window, CqrsHold *hold)
{
	CqrsOutgoing *outgoing = NULL;
	bool		complete = true;
	bool		busy = false;
	CqrsOutboxScan *scan;
	CqrsMessage message;

	/* Messages that have been parked since then are skipped, too. */
	cqrs_reader_read_skipped(reader, cqrs_reader_watermark(reader, window));
	if (hold->failures > MAX_PROBES &&
		!cqrs_objects_has_master(hold->cqrs_id))
		return park_hold(reader, hold);

	scan = cqrs_scan_begin(hold->next_id, reader->frontier);
	while (outgoing == NULL && !busy &&
		   cqrs_scan_next(scan, &message))
	{
		CHECK_FOR_INTERRUPTS();
		if (!cqrs_reader_may_look(reader))
		{
			hold->next_id = message.id;
			complete = false;
			break;
		}
		if (strcmp(message.cqrs_id, hold->cqrs_id) == 0 &&
			cqrs_lane_has(reader->worker, &message) &&
			!cqrs_skipped_has(reader->skipped, reader->nskipped, message.id))
			outgoing = cqrs_reader_build_or_park(reader, &message, &busy);
	}
	cqrs_scan_flush_wal(scan);
	cqrs_scan_end(scan);

	if (outgoing != NULL)
		cqrs_hold_set_probe(reader->holds, hold, outgoing);
	else if (busy)
		cqrs_hold_put_off(reader->holds, hold);
	else if (complete)
		end_hold(reader, hold);
	return complete;
}

/*
 * Put the messages of a master whose probe was taken into the window, and end
 * the hold.  Returns false if the turn ends before that.
 */
static bool
read_hold(CqrsReader *reader, CqrsWindow *window, CqrsHold *hold)
{
	bool		complete = true;
	CqrsOutboxScan *scan = cqrs_scan_begin(hold->next_id,
										   reader->frontier);
	CqrsMessage message;

	cqrs_reader_read_skipped(reader, cqrs_reader_watermark(reader, window));
	while (hold->state == CQRS_HOLD_CATCHING_UP &&
		   cqrs_scan_next(scan, &message))
	{
		CHECK_FOR_INTERRUPTS();
		if (!cqrs_reader_may_look(reader) || !cqrs_window_has_room(window))
		{
			hold->next_id = message.id;
			complete = false;
			break;
		}
		if (strcmp(message.cqrs_id, hold->cqrs_id) != 0 ||
			!cqrs_lane_has(reader->worker, &message))
			continue;
		hold->next_id = message.id + 1;
		cqrs_reader_push_message(reader, window, &message);
	}
	cqrs_scan_flush_wal(scan);
	cqrs_scan_end(scan);

	/* cqrs_reader_push_message() may have held the master anew. */
	if (complete && hold->state == CQRS_HOLD_CATCHING_UP)
		end_hold(reader, hold);
	return complete;
}

/*
 * Park the messages of a held master that has been unregistered, so that
 * nobody can repair its route: PARK_TURN messages in each turn.  Returns false
 * if more are left.
 */
static bool
park_hold(CqrsReader *reader, CqrsHold *hold)
{
	CqrsOutboxScan *scan = cqrs_scan_begin(hold->next_id,
										   reader->frontier);
	CqrsMessage message;
	int			count = 0;
	bool		complete = true;
	bool		busy = false;

	while (!busy && cqrs_scan_next(scan, &message))
	{
		CHECK_FOR_INTERRUPTS();
		if (count == PARK_TURN || !cqrs_reader_may_look(reader))
		{
			hold->next_id = message.id;
			complete = false;
			break;
		}
		if (strcmp(message.cqrs_id, hold->cqrs_id) != 0 ||
			!cqrs_lane_has(reader->worker, &message))
			continue;
		hold->next_id = message.id;
		busy = cqrs_parked_move(&message, CQRS_PARK_HELD,
								"the broker takes no messages of the master, which is unregistered") == CQRS_SKIP_BUSY;
		count++;
	}
	cqrs_scan_flush_wal(scan);
	cqrs_scan_end(scan);
	ForceSyncCommit();
	if (!complete)
		return false;
	if (busy)
	{
		cqrs_hold_put_off(reader->holds, hold);
		return true;
	}
	ereport(LOG,
			(errmsg("messages of master \"%s\" are parked: the master is unregistered, and the broker does not take them",
					hold->cqrs_id)));
	cqrs_hold_remove(reader->holds, hold);
	return true;
}

/* The master has caught up: its messages are read like those of others. */
static void
end_hold(CqrsReader *reader, CqrsHold *hold)
{
	if (hold->logged)
		ereport(LOG,
				(errmsg("messages of master \"%s\" are published again",
						hold->cqrs_id)));
	cqrs_hold_remove(reader->holds, hold);
}
