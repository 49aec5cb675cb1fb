/*-------------------------------------------------------------------------
 *
 * intake_log.h
 *	  Log messages of the consumer about its connection to the broker.
 *
 * Each failure, logged or not, becomes the last error of the consumer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_INTAKE_LOG_H
#define CQRS_INTAKE_LOG_H

#include "postgres.h"

typedef struct CqrsIntakeLog CqrsIntakeLog;

/* In TopMemoryContext. */
extern CqrsIntakeLog *cqrs_intake_log_create(void);

/* The settings have changed: log everything anew. */
extern void cqrs_intake_log_reload(CqrsIntakeLog *log);

/*
 * There is a connection, and it has the lease.  A password in "url" is not
 * logged.
 */
extern void cqrs_intake_log_connected(CqrsIntakeLog *log, const char *url,
									  const char *queue);

/* A connection, or an attempt to connect, has failed. */
extern void cqrs_intake_log_failure(CqrsIntakeLog *log, const char *reason);

/* Another connection has the lease. */
extern void cqrs_intake_log_standby(CqrsIntakeLog *log, const char *queue,
									const char *reason);

/* Another database has consumed the queue since. */
extern void cqrs_intake_log_overtaken(CqrsIntakeLog *log, const char *queue);

/* cqrs.consumer came with a template. */
extern void cqrs_intake_log_copied(CqrsIntakeLog *log, const char *queue);

/* The broker has not taken the mark. */
extern void cqrs_intake_log_unmarked(CqrsIntakeLog *log, const char *reason);

/* The broker has ended the subscription. */
extern void cqrs_intake_log_cancelled(CqrsIntakeLog *log, const char *queue,
									  const char *reason);

/* An exchange is missing, or not permitted. */
extern void cqrs_intake_log_refused(CqrsIntakeLog *log, const char *exchange,
									const char *reason);

/* How often a message was returned to its queue before. */
extern void cqrs_intake_log_count(CqrsIntakeLog *log, int64 delivery_count);

#endif							/* CQRS_INTAKE_LOG_H */
