/*-------------------------------------------------------------------------
 *
 * link_log.h
 *	  Log messages of the publisher about its connection to the broker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LINK_LOG_H
#define CQRS_LINK_LOG_H

#include "postgres.h"

#include "base/once.h"
#include "publish/window.h"

typedef struct CqrsLinkLog CqrsLinkLog;

/* Each failure also becomes the last error of this process's lane. */
extern CqrsLinkLog *cqrs_link_log_create(void);

/* The settings have changed: failures and lost messages are logged again. */
extern void cqrs_link_log_reload(CqrsLinkLog *log);

/* A connection has been made. */
extern void cqrs_link_log_connected(CqrsLinkLog *log, const char *url,
									const char *exchange);

/* An attempt to connect has failed, or a connection ("connected") is lost. */
extern void cqrs_link_log_failure(CqrsLinkLog *log, const char *reason,
								  bool connected);

/* Another publisher has the lease. */
extern void cqrs_link_log_standby(CqrsLinkLog *log, const char *reason);

/* The broker blocks the connection, or does not any more. */
extern void cqrs_link_log_blocked(CqrsLinkLog *log, const char *reason);
extern void cqrs_link_log_unblocked(CqrsLinkLog *log);

/*
 * The broker has dropped a message that no queue is bound for.  "exchange" is
 * the exchange of messages that name none.
 */
extern void cqrs_link_log_returned(CqrsLinkLog *log,
								   const CqrsOutgoing *message,
								   const char *exchange);

/*
 * A master is held.  The caller decides whether to log it, by
 * cqrs_hold_should_log() and this quota.
 */
extern CqrsQuota *cqrs_link_log_quota(CqrsLinkLog *log);
extern void cqrs_link_log_held(const char *cqrs_id, const char *reason);

#endif							/* CQRS_LINK_LOG_H */
