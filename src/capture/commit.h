/*-------------------------------------------------------------------------
 *
 * commit.h
 *	  When the messages of a transaction are made, and what it keeps until then.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_COMMIT_H
#define CQRS_COMMIT_H

#include "postgres.h"

/* Register the callbacks; called once, while the library is preloaded. */
extern void cqrs_commit_init(void);

/*
 * Schedule the notes of this transaction to be resolved at its end.  Called
 * with each note; all but the first call in a transaction do nothing.
 */
extern void cqrs_commit_schedule(void);

/*
 * Keep the versions of rows that the active snapshot sees until the end of the
 * transaction, for notes of the kind CQRS_NOTE_RESENT.
 */
extern void cqrs_commit_keep_snapshot(void);

/* Whether the transaction has changes whose messages are not committed yet. */
extern bool cqrs_commit_has_unsent(void);

/* Record that the transaction has written messages not made from notes. */
extern void cqrs_commit_note_written(void);

#endif							/* CQRS_COMMIT_H */
