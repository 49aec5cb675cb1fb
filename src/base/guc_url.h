/*-------------------------------------------------------------------------
 *
 * guc_url.h
 *	  The settings cqrs.url and cqrs.consumer_url.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_GUC_URL_H
#define CQRS_GUC_URL_H

#include "postgres.h"

#include "utils/guc.h"

/*
 * The URL of the broker that is published to, or consumed from, with its
 * password; NULL when none is set.
 */
extern const char *cqrs_guc_url(void);
extern const char *cqrs_guc_consumer_url(void);

/*
 * Whether there is a transport for a scheme of URLs; if not, *reason is a full
 * sentence that names the schemes that have one.  Does not raise errors or allocate.
 */
typedef bool (*CqrsSchemeCheck) (const char *scheme, const char **reason);

/*
 * For check hooks of settings of workers: whether a value of that source can be
 * one of workers.  If not, says so by GUC_check_errdetail() and its kin.
 */
extern bool cqrs_guc_check_source(GucSource source);

/*
 * For check hooks that refuse a URL or an exchange of that source: if it is one
 * of the database, this process has no URL from now on.
 */
extern void cqrs_guc_refuse(GucSource source);

/* Define them.  Part of cqrs_guc_init(). */
extern void cqrs_guc_url_define(CqrsSchemeCheck scheme_check);

#endif							/* CQRS_GUC_URL_H */
