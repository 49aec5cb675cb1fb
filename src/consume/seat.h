/*-------------------------------------------------------------------------
 *
 * seat.h
 *	  The row of cqrs.consumer: what this database consumes, and how far the
 *	  consumer has come with it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_SEAT_H
#define CQRS_SEAT_H

#include "postgres.h"

typedef struct CqrsSeat
{
	char	   *queue;
	bool		quorum;
	bool		paused;
	bool		dropping;		/* delete the queue, then this row */
	bool		copied;			/* the row came with a template: it is of
								 * another database */
	bool		taking_over;	/* cqrs_consume() was called: there is no
								 * epoch */
	int64		epoch;
	bool		running;		/* a consumer runs, or has ended without order */
	bytea	   *suspect;		/* digest of the message that is being tried,
								 * or NULL */
} CqrsSeat;

/*
 * The row, in the current context, or NULL if this database consumes nothing.
 * Needs a transaction.
 */
extern CqrsSeat *cqrs_seat_read(void);

/*
 * Write to the row, in a transaction of its own that is committed durably.
 * Nothing happens if there is no row.  An error does not end the process, but
 * is returned as a text in the current context.  NULL: committed.  probe()
 * changes nothing.  set_epoch() fails if the row has another queue, or
 * cqrs_consume() was called since it was read.
 */
extern const char *cqrs_seat_delete(void);
extern const char *cqrs_seat_set_running(void);
extern const char *cqrs_seat_set_suspect(const bytea *digest);
extern const char *cqrs_seat_set_epoch(const char *queue, int64 epoch,
									   bool taking_over);
extern const char *cqrs_seat_probe(void);

/*
 * Remove the suspect when the current transaction commits.  Needs an active
 * snapshot.  If cqrs.consumer is locked, the suspect stays.
 */
extern void cqrs_seat_clear_suspect(void);

/* The consumer ends in order; takes a second at most. */
extern void cqrs_seat_leave(void);

#endif							/* CQRS_SEAT_H */
