/*-------------------------------------------------------------------------
 *
 * reader_parts.h
 *	  What reader.c and reader_held.c share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_READER_PARTS_H
#define CQRS_READER_PARTS_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "publish/hold.h"
#include "publish/lane.h"
#include "publish/outgoing.h"
#include "publish/window.h"

struct CqrsReader
{
	const CqrsWorker *worker;
	int			look_turn;		/* the most that a part of a turn looks at */
	int			nlooked;		/* looked at in this part of the turn */
	int64		frontier;
	List	   *holes;			/* of Hole, ascending */
	CqrsHolds  *holds;
	int64	   *skipped;		/* ids above the watermark, ascending */
	int			nskipped;
	MemoryContext context;		/* holes, and messages for the window */
	MemoryContext scratch;		/* reset for each message */
};

/*
 * Do what is due for held masters.  Returns false if the turn ends before all
 * is done.
 */
extern bool cqrs_reader_read_held(struct CqrsReader *reader,
								  CqrsWindow *window);

/*
 * Whether another message can be looked at in this part of the turn.  Messages
 * that are skipped take no room in the window.  Without a limit of their own a
 * turn could last for hours, during which the broker would get no heartbeat,
 * other masters would get no turn, and a shutdown request would not be
 * noticed.
 */
extern bool cqrs_reader_may_look(struct CqrsReader *reader);

/*
 * Put a message into the window, unless it is another lane's, its master is
 * held, or it is parked.
 */
extern void cqrs_reader_push_message(struct CqrsReader *reader,
									 CqrsWindow *window,
									 const CqrsMessage *message);

/*
 * Make a message for the window.  If it cannot be sent, park it and return
 * NULL.  *busy is set if another transaction is just parking it, too.
 */
extern CqrsOutgoing *cqrs_reader_build_or_park(struct CqrsReader *reader,
											   const CqrsMessage *message,
											   bool *busy);

/* Read which messages above the watermark are parked. */
extern void cqrs_reader_read_skipped(struct CqrsReader *reader,
									 int64 watermark);

#endif							/* CQRS_READER_PARTS_H */
