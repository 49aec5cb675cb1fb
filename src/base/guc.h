/*-------------------------------------------------------------------------
 *
 * guc.h
 *	  The settings of cqrs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_GUC_H
#define CQRS_GUC_H

#include "postgres.h"

#include "base/guc_url.h"

typedef enum CqrsUnroutable
{
	CQRS_UNROUTABLE_DROP,
	CQRS_UNROUTABLE_KEEP
}			CqrsUnroutable;

typedef enum CqrsOutboxFull
{
	CQRS_OUTBOX_FULL_WARN,
	CQRS_OUTBOX_FULL_REFUSE
}			CqrsOutboxFull;

/* Capture */
extern bool cqrs_produce;
extern int	cqrs_max_pending_kb;	/* 0: no limit */
extern int	cqrs_outbox_full;	/* CqrsOutboxFull */
extern char *cqrs_correlation_id;	/* "": none */
extern char *cqrs_correlation_function; /* "": none */
extern char *cqrs_meta_function;	/* "": none */

/* Messages and publishing */
extern char *cqrs_exchange;
extern int	cqrs_message_ttl_s; /* 0: messages do not expire */
extern int	cqrs_confirm_window;	/* messages */
extern int	cqrs_confirm_window_kb;
extern int	cqrs_heartbeat_s;	/* 0: none */
extern int	cqrs_connect_timeout_ms;
extern int	cqrs_confirm_timeout_ms;	/* 0: wait for ever */
extern int	cqrs_confirm_replicas;	/* 0: none */
extern int	cqrs_queue_limit;	/* 0: none */
extern int	cqrs_reconnect_delay_ms;
extern int	cqrs_reconnect_delay_max_ms;
extern int	cqrs_max_databases;
extern int	cqrs_publishers;	/* per database */
extern char *cqrs_password_file;	/* "": none */
extern char *cqrs_ssl_ca_file;	/* "": the system's */
extern char *cqrs_ssl_cert_file;	/* "": none */
extern char *cqrs_ssl_key_file; /* "": none */
extern bool cqrs_ssl_verify;
extern int	cqrs_unroutable;	/* CqrsUnroutable */

/* Consuming and applying */
extern int	cqrs_prefetch;		/* messages */
extern int	cqrs_apply_timeout_ms;	/* 0: none */
extern int	cqrs_retry_delay_max_ms;
extern int	cqrs_max_failed;	/* messages that wait for a retry */
extern int	cqrs_dead_letter_ttl_s; /* 0: for ever */

/*
 * Whether the owner of a table may have its master publish to an exchange:
 * cqrs.exchange and those in cqrs.allowed_exchanges are allowed.
 */
extern bool cqrs_guc_allows_exchange(const char *name);

/*
 * Give a setting of PostgreSQL, that any role can change, a value until the
 * current nesting level of settings ends.
 */
extern void cqrs_guc_pin(const char *name, const char *value);

/* Define all settings.  Called once, while the library is preloaded. */
extern void cqrs_guc_init(CqrsSchemeCheck scheme_check);

#endif							/* CQRS_GUC_H */
