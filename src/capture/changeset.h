/*-------------------------------------------------------------------------
 *
 * changeset.h
 *	  What the current transaction has touched.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_CHANGESET_H
#define CQRS_CHANGESET_H

#include "postgres.h"

#include "storage/itemptr.h"
#include "utils/relcache.h"

typedef enum CqrsNoteKind
{
	CQRS_NOTE_BORN,				/* the version was inserted */
	CQRS_NOTE_TOUCHED,			/* the version is about to change or go */
	CQRS_NOTE_RESENT			/* the row is to be sent again as it is */
} CqrsNoteKind;

/*
 * What notes have in common: their kind, and a table and its file.  A note of
 * the kind CQRS_NOTE_RESENT is for one master, and for one queue or all queues.
 */
typedef struct CqrsTarget
{
	CqrsNoteKind kind;
	Oid			relid;
	Oid			file;			/* cqrs_compat_relation_file() when noted */
	bool		keys_move;		/* keys may pass from row to row */
	bool		repeats;		/* a row may have been noted more than once */
	bool		skipped;		/* noted rows may keep their revision */
	CommandId	tracked_from;	/* only versions made by this command or later
								 * ones can have been noted */
	CommandId	first_tracked_from; /* "tracked_from", when no note has been
									 * dealt with */
	bool		is_tracked;		/* "first_tracked_from" is known */
	CommandId	noted_by;		/* CQRS_NOTE_BORN: the command of the last
								 * note */
	uint64		done_before;	/* notes before this position are dealt with */
	char	   *cqrs_id;		/* CQRS_NOTE_RESENT */
	char	   *queue;			/* CQRS_NOTE_RESENT; NULL: all */
} CqrsTarget;

/* A touched version of a row.  Twelve bytes; there may be many millions. */
typedef struct CqrsNote
{
	ItemPointerData tid;		/* invalid: see cqrs_changeset_note_done() */
	uint16		target;
	SubTransactionId subid;
} CqrsNote;

extern bool cqrs_changeset_is_empty(void);

/* Whether there are notes that have not been dealt with. */
extern bool cqrs_changeset_has_pending(void);

/* Whether rows of a table have been noted and not been dealt with. */
extern bool cqrs_changeset_has_notes(Oid relid);

/*
 * Whether rows of a table have been noted and not been dealt with, other than
 * rows that were born in this transaction.
 */
extern bool cqrs_changeset_has_known_notes(Oid relid);

/*
 * Between these two calls, cqrs_changeset_freeze() and anything that makes a
 * note raise an error: a function that a hook calls may try.  Whoever calls
 * hooks and writes what they make freezes.  The end of the transaction thaws,
 * and so does the failure of the subtransaction.
 */
extern void cqrs_changeset_freeze(void);
extern void cqrs_changeset_thaw(void);

/* The target for changes of "rel" of that kind, made at its first use. */
extern uint16 cqrs_changeset_target(CqrsNoteKind kind, Relation rel);

/* The target for sending rows of "rel" again. */
extern uint16 cqrs_changeset_resent_target(Relation rel, const char *cqrs_id,
										   const char *queue);

/*
 * Access to a target; valid until the next target is made, which any function
 * of users can do, but while frozen.
 */
extern CqrsTarget *cqrs_changeset_get_target(uint16 target);
extern int	cqrs_changeset_ntargets(void);

/* Whether keys may have passed from row to row, in any table. */
extern bool cqrs_changeset_keys_move(void);

/*
 * Raise an error if the table's file is no longer the one that the notes of a
 * target are of: such notes lead nowhere.
 */
extern void cqrs_changeset_check_file(const CqrsTarget *target, Relation rel);

/* Note that a version of a row was touched. */
extern void cqrs_changeset_note(uint16 target, ItemPointer tid);

/*
 * Note that all earlier notes of a target have been dealt with, and that no
 * version older than the current command has been noted.  This is a note
 * itself, so that the failure of a subtransaction removes it.
 */
extern void cqrs_changeset_note_done(uint16 target);

/*
 * Note, when a target is first used, that versions older than a command have
 * not been noted.
 */
extern void cqrs_changeset_begin(uint16 target, CommandId since);

/*
 * Note that all earlier notes of all targets have been dealt with, except for
 * the notes that are kept.
 */
extern void cqrs_changeset_all_done(void);

/*
 * Keep a note, while all others are dealt with: if a trigger calls cqrs_flush(),
 * an update of the row is still to come.
 */
extern void cqrs_changeset_keep(const CqrsNote *note);

/*
 * A trigger lets pass the update of a version that was noted, or succeeds one
 * that was.  Until the current memory context is reset, which PostgreSQL does
 * after the update of each row, cqrs_changeset_is_updating() is true for the
 * version.
 */
extern void cqrs_changeset_begin_update(Relation rel, ItemPointer tid);
extern bool cqrs_changeset_is_updating(Relation rel, ItemPointer tid);

/* A subtransaction fails: drop what it and those within it have noted. */
extern void cqrs_changeset_abort_sub(SubTransactionId subid);

/* The transaction has ended; PostgreSQL frees the memory with it. */
extern void cqrs_changeset_reset(void);

/*
 * Walk over the notes that have not been dealt with, in their order.  Nothing
 * may be noted while walking.
 */
typedef struct CqrsWalk
{
	int			chunk;
	int			index;
	uint64		position;		/* of the note that comes next */
} CqrsWalk;

extern void cqrs_changeset_walk(CqrsWalk *walk);
extern const CqrsNote *cqrs_changeset_next(CqrsWalk *walk);

#endif							/* CQRS_CHANGESET_H */
