/*-------------------------------------------------------------------------
 *
 * caught.h
 *	  Errors that are caught.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_CAUGHT_H
#define CQRS_CAUGHT_H

#include "postgres.h"

/*
 * In PG_CATCH(): copy the error into the current context.  An extension may
 * raise an error without a message; here it has one, as in the server's log, so
 * that a message stands for an error.
 */
extern ErrorData *cqrs_caught_copy(void);

/*
 * In PG_CATCH(): abort the current transaction, and take the error.  The error is
 * in "context", which becomes the current one.  For workers, whose process is to
 * go on.
 */
extern ErrorData *cqrs_caught_abort(MemoryContext context);

/*
 * Call run(arg) in a subtransaction.  Returns NULL if "run" has returned, and the
 * subtransaction is part of the transaction now.  Returns the error if one was
 * raised, and the subtransaction is rolled back.  For a transaction that is to
 * go on after errors of users' functions and of data, in a worker or in a session.
 *
 * Memory: "run" is called in the current memory context, the error is there, and
 * it is the current one afterwards.  What "run" allocates in it stays after an
 * error, too.
 *
 * An error undoes what the subtransaction has written in the database, and gives
 * back what it has taken: locks, relations, snapshots, connections to SPI,
 * settings, user id.  Memory that "run" has written to stays as it is: after an
 * error, only the caller knows which of *arg has a meaning.  Without an error,
 * "run" has to leave snapshots, SPI, settings and user id as it has found them.
 *
 * Every error is returned, cancellations and serialization failures as well.
 * The caller passes on, by ReThrowError(), what is not to be survived.  By then
 * the subtransaction is gone: a handler further out, in PL/pgSQL, rolls back one
 * subtransaction, and takes it for its own.
 *
 * Interrupts: nothing looks at them between the error and the return.  A
 * cancellation that arrives in that time waits for the caller's next
 * CHECK_FOR_INTERRUPTS().  Timeouts that "run" has left enabled stay enabled.
 */
extern ErrorData *cqrs_caught_run(void (*run) (void *arg), void *arg);

/*
 * The same, but the subtransaction is rolled back in any case: so locks and
 * snapshots of "run" end with it, and "run" may leave them.
 */
extern ErrorData *cqrs_caught_run_undone(void (*run) (void *arg), void *arg);

/*
 * Whether an error is the cancel of the statement: by a user, or by a timeout.
 * A function of a user can raise an error of the same SQLSTATE, which is none.
 */
extern bool cqrs_caught_is_cancel(const ErrorData *error);

#endif							/* CQRS_CAUGHT_H */
