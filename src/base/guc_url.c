/*-------------------------------------------------------------------------
 *
 * guc_url.c
 *	  The settings cqrs.url and cqrs.consumer_url.
 *
 * Both carry a password, and PostgreSQL has several places that print the value
 * of a setting: the log line about a changed parameter, the error about an
 * invalid one, pg_settings, SHOW.  So the string that the GUC machinery holds is
 * always empty; the URL lives in the "extra" data that the check hook hands to
 * the assign hook.  A show hook answers SHOW and current_setting(): the URL for
 * a superuser, with the password masked for others who may see it
 * (pg_read_all_settings).
 *
 * Everybody can read the settings of databases, in pg_db_role_setting.  So a URL
 * of a database must have no password.
 *
 * PostgreSQL ignores a value of a database that a check hook refuses when a
 * process starts, and uses the server's.  If that is a URL or an exchange, the
 * messages of the database would go to another broker or exchange: the process
 * then has no URL at all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "base/compat.h"
#include "base/guc_url.h"
#include "base/url.h"

PG_FUNCTION_INFO_V1(cqrs_sql_url_is_set);

/* The strings of the GUC machinery, and the URLs. */
static char *url_placeholder;
static char *consumer_url_placeholder;
static const char *url;
static const char *consumer_url;
static CqrsSchemeCheck check_scheme;

/* A value of the database for a URL or an exchange was refused. */
static bool refused = false;

static bool check_url(char **newval, void **extra, GucSource source);
static bool check_consumer_url(char **newval, void **extra, GucSource source);
static bool check_url_of(const char *name, char **newval, void **extra,
						 GucSource source);
static bool check_part(const char *whole, int host, bool of_database);
static void assign_url(const char *newval, void *extra);
static void assign_consumer_url(const char *newval, void *extra);
static const char *show_url(void);
static const char *show_consumer_url(void);
static const char *shown(const char *whole);

void
cqrs_guc_url_define(CqrsSchemeCheck scheme_check)
{
	check_scheme = scheme_check;

	DefineCustomStringVariable("cqrs.consumer_url",
							   "Address of the broker from which messages are consumed, as in cqrs.url.",
							   "Empty means the value of cqrs.url.",
							   &consumer_url_placeholder,
							   "",
							   PGC_SUSET,
							   GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							   check_consumer_url, assign_consumer_url,
							   show_consumer_url);

	DefineCustomStringVariable("cqrs.url",
							   "Address of the broker, amqp://user:password@host:port/vhost or redis://user:password@host:port/database; amqps:// or rediss:// for TLS.",
							   "Empty means that changes wait in the outbox.",
							   &url_placeholder,
							   "",
							   PGC_SUSET,
							   GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							   check_url, assign_url, show_url);
}

const char *
cqrs_guc_url(void)
{
	return refused ? NULL : url;
}

const char *
cqrs_guc_consumer_url(void)
{
	return consumer_url != NULL && !refused ? consumer_url : cqrs_guc_url();
}

/* cqrs.url_is_set() RETURNS boolean */
Datum
cqrs_sql_url_is_set(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(cqrs_guc_url() != NULL);
}

static bool
check_url(char **newval, void **extra, GucSource source)
{
	return check_url_of("cqrs.url", newval, extra, source);
}

static bool
check_consumer_url(char **newval, void **extra, GucSource source)
{
	return check_url_of("cqrs.consumer_url", newval, extra, source);
}

bool
cqrs_guc_check_source(GucSource source)
{
	if (source != PGC_S_GLOBAL && source != PGC_S_USER &&
		source != PGC_S_DATABASE_USER && source != PGC_S_CLIENT &&
		source != PGC_S_SESSION)
		return true;
	GUC_check_errcode(ERRCODE_CANT_CHANGE_RUNTIME_PARAM);
	GUC_check_errdetail("The setting is for background workers, so roles and sessions have no value of their own.");
	GUC_check_errhint("Use ALTER SYSTEM and reload the configuration, or ALTER DATABASE.");
	return false;
}

void
cqrs_guc_refuse(GucSource source)
{
	refused = refused || source == PGC_S_DATABASE;
}

/*
 * Refuse an invalid URL, and keep the URL in *extra; *newval becomes empty.
 * PGC_S_TEST is the source while ALTER DATABASE checks a value.
 */
static bool
check_url_of(const char *name, char **newval, void **extra, GucSource source)
{
	bool		of_database = source == PGC_S_DATABASE || source == PGC_S_TEST;
	bool		valid = cqrs_guc_check_source(source);
	char	   *kept;

	*extra = NULL;
	if (valid && (*newval == NULL || (*newval)[0] == '\0'))
		return true;

	/* Every host has to be valid. */
	for (int host = 0; valid && host < cqrs_url_hosts(*newval); host++)
		valid = check_part(*newval, host, of_database);
	if (!valid)
	{
		cqrs_guc_refuse(source);
		/* The usual message would contain the value. */
		GUC_check_errmsg("invalid value for parameter \"%s\"", name);
		return false;
	}

	kept = cqrs_guc_strdup(*newval);
	if (kept == NULL)
		return false;
	cqrs_guc_free(*newval);
	*newval = cqrs_guc_strdup("");
	if (*newval == NULL)
	{
		cqrs_guc_free(kept);
		return false;
	}
	*extra = kept;
	return true;
}

/* Whether a URL is valid, with one of its hosts. */
static bool
check_part(const char *whole, int host, bool of_database)
{
	char	   *scratch = strdup(whole);
	CqrsUrl		parsed;
	const char *reason;
	bool		valid;

	if (scratch == NULL)
		return false;
	valid = cqrs_url_parse(scratch, host, &parsed, &reason) &&
		check_scheme(parsed.scheme, &reason);
	if (valid && of_database && parsed.password != NULL)
	{
		valid = false;
		reason = "A URL that is set for a database must have no password, because everybody can read the settings of databases.";
		GUC_check_errhint("Put the password into the file of \"cqrs.password_file\".");
	}
	if (!valid)
		GUC_check_errdetail("%s", reason);
	free(scratch);
	return valid;
}

static void
assign_url(const char *newval, void *extra)
{
	Assert(newval == NULL || newval[0] == '\0');	/* I20 */
	url = extra;
}

static void
assign_consumer_url(const char *newval, void *extra)
{
	consumer_url = extra;
}

static const char *
show_url(void)
{
	return shown(url);
}

static const char *
show_consumer_url(void)
{
	return shown(consumer_url);
}

/* What the present user may see of a URL. */
static const char *
shown(const char *whole)
{
	if (whole == NULL)
		return "";
	if (IsTransactionState() && superuser())
		return whole;
	return cqrs_url_mask(whole);
}
