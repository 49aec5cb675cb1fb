/*-------------------------------------------------------------------------
 *
 * resolve.h
 *	  From what a transaction has touched to its messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_RESOLVE_H
#define CQRS_RESOLVE_H

#include "postgres.h"

/*
 * Put the messages of all noted changes into the outbox; with cqrs.produce
 * off, put none.  Later changes of the same rows make messages of their own.
 * Called while the transaction commits or is being prepared; returns whether
 * there were any messages.  "late": after deferred triggers and callbacks of
 * other extensions, where no user's function may run; if a table of the
 * changes has one, an error is raised.
 */
extern bool cqrs_resolve_all(bool late);

/*
 * The same in the middle of a transaction.  Notes of rows that have not
 * changed are kept, since their update may be still to come.  Returns the
 * number of messages.
 */
extern int64 cqrs_resolve_flush(void);

#endif							/* CQRS_RESOLVE_H */
