/*-------------------------------------------------------------------------
 *
 * guc.c
 *	  The settings of cqrs.
 *
 * Those with a password are in guc_url.c.
 *
 * The settings of workers are those of the server or of a database, which a
 * worker has from its start (worker.c).  They are PGC_SUSET, since ALTER
 * DATABASE takes no settings that only the configuration file can change; what
 * PGC_SUSET permits besides, values of roles and sessions, is refused by the
 * check hooks.  Two remain settings of the server: cqrs.publishers, because the
 * launcher is in no database, and cqrs.password_file, whose lines say for whom
 * they are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "common/string.h"
#include "mb/pg_wchar.h"
#include "nodes/pg_list.h"
#include "utils/guc.h"
#include "utils/varlena.h"

#include "base/compat.h"
#include "base/exchange.h"
#include "base/guc.h"
#include "base/limits.h"

bool		cqrs_produce = true;
int			cqrs_max_pending_kb;
int			cqrs_outbox_full;
static char *allowed_exchanges;
char	   *cqrs_correlation_id;
char	   *cqrs_correlation_function;
char	   *cqrs_meta_function;
char	   *cqrs_exchange;
int			cqrs_message_ttl_s;
int			cqrs_confirm_window;
int			cqrs_confirm_window_kb;
int			cqrs_heartbeat_s;
int			cqrs_connect_timeout_ms;
int			cqrs_confirm_timeout_ms;
int			cqrs_confirm_replicas;
int			cqrs_queue_limit;
int			cqrs_reconnect_delay_ms;
int			cqrs_reconnect_delay_max_ms;
int			cqrs_max_databases;
int			cqrs_publishers;
char	   *cqrs_password_file;
char	   *cqrs_ssl_ca_file;
char	   *cqrs_ssl_cert_file;
char	   *cqrs_ssl_key_file;
bool		cqrs_ssl_verify;
int			cqrs_unroutable;
int			cqrs_prefetch;
int			cqrs_apply_timeout_ms;
int			cqrs_retry_delay_max_ms;
int			cqrs_max_failed;
int			cqrs_dead_letter_ttl_s;

static const struct config_enum_entry unroutable_options[] = {
	{"drop", CQRS_UNROUTABLE_DROP, false},
	{"keep", CQRS_UNROUTABLE_KEEP, false},
	{NULL, 0, false}
};

static const struct config_enum_entry outbox_full_options[] = {
	{"warn", CQRS_OUTBOX_FULL_WARN, false},
	{"refuse", CQRS_OUTBOX_FULL_REFUSE, false},
	{NULL, 0, false}
};

static bool is_encoded(const char *name, const char *value, GucSource source);
static bool check_correlation_function(char **newval, void **extra,
									   GucSource source);
static bool check_meta_function(char **newval, void **extra, GucSource source);
static bool check_shortstr(char **newval, void **extra, GucSource source);
static bool check_correlation_id(char **newval, void **extra,
								 GucSource source);
static bool check_exchange(char **newval, void **extra, GucSource source);
static bool check_exchanges(char **newval, void **extra, GucSource source);
static bool check_int_source(int *newval, void **extra, GucSource source);
static bool check_bool_source(bool *newval, void **extra, GucSource source);
static bool check_text_source(char **newval, void **extra, GucSource source);
static void define_capture_settings(void);
static void define_message_settings(void);
static void define_publisher_settings(void);
static void define_consumer_settings(void);
static void define_tls_settings(void);
static void define_file(const char *name, const char *description,
						char **variable);

void
cqrs_guc_pin(const char *name, const char *value)
{
	const char *current = GetConfigOption(name, true, false);

	if (current != NULL && strcmp(current, value) != 0)
		(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

void
cqrs_guc_init(CqrsSchemeCheck scheme_check)
{
	define_capture_settings();
	define_message_settings();
	cqrs_guc_url_define(scheme_check);
	define_publisher_settings();
	define_consumer_settings();
	define_tls_settings();
	MarkGUCPrefixReserved("cqrs");
}

static void
define_capture_settings(void)
{
	DefineCustomStringVariable("cqrs.correlation_function",
							   "Function that gives the correlation id of a message.",
							   "Called as f(signal_type text, cqrs_id text, instance_pk text, queue text) where cqrs.correlation_id is empty.",
							   &cqrs_correlation_function,
							   "",
							   PGC_SUSET, 0,
							   check_correlation_function, NULL, NULL);

	DefineCustomStringVariable("cqrs.correlation_id",
							   "Correlation id of the messages of the current transaction.",
							   "The value at commit is used.",
							   &cqrs_correlation_id,
							   "",
							   PGC_USERSET, 0,
							   check_correlation_id, NULL, NULL);

	DefineCustomIntVariable("cqrs.max_pending_bytes",
							"Size of the outbox at which cqrs.outbox_full takes effect.",
							"0 means that there is no limit.",
							&cqrs_max_pending_kb,
							0, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_KB,
							NULL, NULL, NULL);

	DefineCustomStringVariable("cqrs.meta_function",
							   "Function that gives the meta object of masters without one of their own.",
							   "Called as f(cqrs_id text, signal_type text, instance_data jsonb, previous_data jsonb).",
							   &cqrs_meta_function,
							   "",
							   PGC_SUSET, 0,
							   check_meta_function, NULL, NULL);

	DefineCustomEnumVariable("cqrs.outbox_full",
							 "What happens to changes when the outbox has reached cqrs.max_pending_bytes.",
							 "warn: they succeed, with a warning. refuse: they fail.",
							 &cqrs_outbox_full,
							 CQRS_OUTBOX_FULL_WARN,
							 outbox_full_options,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);

	DefineCustomBoolVariable("cqrs.produce",
							 "Produce messages for the changes of a transaction.",
							 "The value at commit is used.",
							 &cqrs_produce,
							 true,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
}

static void
define_message_settings(void)
{
	DefineCustomStringVariable("cqrs.allowed_exchanges",
							   "Exchanges that owners of tables may give to masters, besides cqrs.exchange.",
							   "A list of names; * allows all. Superusers may give any.",
							   &allowed_exchanges,
							   "",
							   PGC_SUSET, GUC_LIST_INPUT,
							   check_exchanges, NULL, NULL);

	DefineCustomStringVariable("cqrs.exchange",
							   "Exchange that messages are published to.",
							   "It is declared as a durable topic exchange.",
							   &cqrs_exchange,
							   "cqrs",
							   PGC_SUSET, 0,
							   check_exchange, NULL, NULL);

	DefineCustomIntVariable("cqrs.message_ttl",
							"Time after which consumers no longer apply a message.",
							"Counted from its publishing. 0 means never.",
							&cqrs_message_ttl_s,
							86400, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_S,
							check_int_source, NULL, NULL);

	DefineCustomEnumVariable("cqrs.unroutable",
							 "What happens to messages for which no queue is bound.",
							 "drop: they are lost and counted. keep: they wait until a queue is bound.",
							 &cqrs_unroutable,
							 CQRS_UNROUTABLE_DROP,
							 unroutable_options,
							 PGC_SUSET, 0,
							 check_int_source, NULL, NULL);
}

static void
define_publisher_settings(void)
{
	DefineCustomIntVariable("cqrs.confirm_replicas",
							"Number of replicas of a Redis server that must have a message before the message counts as confirmed.",
							"0 means that the server itself is enough.",
							&cqrs_confirm_replicas,
							0, 0, 100,
							PGC_SUSET, 0,
							check_int_source, NULL, NULL);

	DefineCustomIntVariable("cqrs.confirm_timeout",
							"Time without any confirm after which the publisher reconnects.",
							"0 means that the publisher waits without limit.",
							&cqrs_confirm_timeout_ms,
							60000, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS,
							check_int_source, NULL, NULL);

	DefineCustomIntVariable("cqrs.confirm_window",
							"Maximum number of messages sent and not yet confirmed.",
							NULL,
							&cqrs_confirm_window,
							2000, 1, 65536,
							PGC_SUSET, 0,
							check_int_source, NULL, NULL);

	DefineCustomIntVariable("cqrs.confirm_window_size",
							"Maximum size of the messages that the publisher holds in memory.",
							"A single larger message is published alone.",
							&cqrs_confirm_window_kb,
							16384, 64, 1024 * 1024,
							PGC_SUSET, GUC_UNIT_KB,
							check_int_source, NULL, NULL);

	DefineCustomIntVariable("cqrs.connect_timeout",
							"Time allowed for connecting to the broker, and again for the handshake.",
							NULL,
							&cqrs_connect_timeout_ms,
							10000, 100, 3600 * 1000,
							PGC_SUSET, GUC_UNIT_MS,
							check_int_source, NULL, NULL);

	DefineCustomIntVariable("cqrs.heartbeat",
							"Interval of heartbeats between publisher and broker.",
							"0 disables them.",
							&cqrs_heartbeat_s,
							10, 0, 3600,
							PGC_SUSET, GUC_UNIT_S,
							check_int_source, NULL, NULL);

	DefineCustomIntVariable("cqrs.max_databases",
							"Maximum number of databases with the extension.",
							"Sets the size of the shared memory.",
							&cqrs_max_databases,
							64, 1, 10000,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);

	DefineCustomStringVariable("cqrs.password_file",
							   "File with the passwords of URLs that have none.",
							   "Lines have the form host:port:vhost:user:password. Relative to the data directory.",
							   &cqrs_password_file,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);

	DefineCustomIntVariable("cqrs.publishers",
							"Number of publishers of each database, each with a connection to the broker.",
							"The messages of one row are always published by the same one.",
							&cqrs_publishers,
							1, 1, CQRS_MAX_LANES,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("cqrs.queue_limit",
							"Number of messages in a queue of a Redis server at which the masters that publish to the queue are held.",
							"0 means that there is no limit.",
							&cqrs_queue_limit,
							0, 0, INT_MAX,
							PGC_SUSET, 0,
							check_int_source, NULL, NULL);

	DefineCustomIntVariable("cqrs.reconnect_delay",
							"Time before the first attempt to reconnect.",
							"It doubles with each failed attempt, up to cqrs.reconnect_delay_max.",
							&cqrs_reconnect_delay_ms,
							100, 10, 3600 * 1000,
							PGC_SUSET, GUC_UNIT_MS,
							check_int_source, NULL, NULL);

	DefineCustomIntVariable("cqrs.reconnect_delay_max",
							"Longest time between attempts to reconnect.",
							NULL,
							&cqrs_reconnect_delay_max_ms,
							30000, 10, 3600 * 1000,
							PGC_SUSET, GUC_UNIT_MS,
							check_int_source, NULL, NULL);
}

static void
define_consumer_settings(void)
{
	DefineCustomIntVariable("cqrs.apply_timeout",
							"Time that the consumer spends on one message at most.",
							"0 means that there is no limit.",
							&cqrs_apply_timeout_ms,
							30000, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS,
							check_int_source, NULL, NULL);

	DefineCustomIntVariable("cqrs.dead_letter_ttl",
							"Time after which dead letters are deleted.",
							"0 means never.",
							&cqrs_dead_letter_ttl_s,
							10 * 86400, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_S,
							check_int_source, NULL, NULL);

	DefineCustomIntVariable("cqrs.max_failed",
							"Number of failed messages waiting for a retry at which the consumer takes no more messages.",
							"The broker keeps the others.",
							&cqrs_max_failed,
							100000, 1, INT_MAX,
							PGC_SUSET, 0,
							check_int_source, NULL, NULL);

	DefineCustomIntVariable("cqrs.prefetch",
							"Maximum number of messages that the consumer holds without acknowledgement.",
							NULL,
							&cqrs_prefetch,
							2000, 1, 65535,
							PGC_SUSET, 0,
							check_int_source, NULL, NULL);

	DefineCustomIntVariable("cqrs.retry_delay_max",
							"Longest time between attempts to apply a failed message.",
							NULL,
							&cqrs_retry_delay_max_ms,
							3600 * 1000, 100, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS,
							check_int_source, NULL, NULL);
}

static void
define_tls_settings(void)
{
	define_file("cqrs.ssl_ca_file",
				"Certificates of the authorities that may have signed the broker's certificate.",
				&cqrs_ssl_ca_file);
	define_file("cqrs.ssl_cert_file",
				"Certificate that the publisher shows to the broker.",
				&cqrs_ssl_cert_file);
	define_file("cqrs.ssl_key_file",
				"Private key of cqrs.ssl_cert_file.",
				&cqrs_ssl_key_file);
	DefineCustomBoolVariable("cqrs.ssl_verify",
							 "Verify the broker's certificate, and that the certificate is for the broker's host.",
							 NULL,
							 &cqrs_ssl_verify,
							 true,
							 PGC_SUSET, 0,
							 check_bool_source, NULL, NULL);
}

static void
define_file(const char *name, const char *description, char **variable)
{
	DefineCustomStringVariable(name, description,
							   "A file in PEM format; relative to the data directory.",
							   variable,
							   "",
							   PGC_SUSET, GUC_SUPERUSER_ONLY,
							   check_text_source, NULL, NULL);
}

static bool
check_int_source(int *newval, void **extra, GucSource source)
{
	return cqrs_guc_check_source(source);
}

static bool
check_bool_source(bool *newval, void **extra, GucSource source)
{
	return cqrs_guc_check_source(source);
}

static bool
check_text_source(char **newval, void **extra, GucSource source)
{
	return cqrs_guc_check_source(source);
}

/*
 * Whether a text is valid in every encoding that it may be used in.  A value
 * set in a session is used in one database.  A value of the configuration file
 * is read before there is a database, and is used in all of them.
 */
static bool
is_encoded(const char *name, const char *value, GucSource source)
{
	bool		everywhere = source <= PGC_S_ARGV;

	if (value == NULL ||
		(everywhere ? pg_is_ascii(value) :
		 pg_verifymbstr(value, strlen(value), true)))
		return true;

	/* The usual message would contain the value, which cannot be shown. */
	GUC_check_errmsg("invalid value for parameter \"%s\"", name);
	if (everywhere)
		GUC_check_errdetail("The value, which is for all databases, has characters other than ASCII.");
	else
		GUC_check_errdetail("The value is not valid in the encoding \"%s\" of the database.",
							GetDatabaseEncodingName());
	return false;
}

static bool
check_correlation_function(char **newval, void **extra, GucSource source)
{
	return is_encoded("cqrs.correlation_function", *newval, source);
}

static bool
check_meta_function(char **newval, void **extra, GucSource source)
{
	return is_encoded("cqrs.meta_function", *newval, source);
}

/* At most as long as an AMQP short string. */
static bool
check_shortstr(char **newval, void **extra, GucSource source)
{
	if (*newval != NULL && strlen(*newval) > CQRS_SHORTSTR_BYTES)
	{
		GUC_check_errdetail("The value is longer than %d bytes.",
							CQRS_SHORTSTR_BYTES);
		return false;
	}
	return true;
}

static bool
check_correlation_id(char **newval, void **extra, GucSource source)
{
	return check_shortstr(newval, extra, source) &&
		is_encoded("cqrs.correlation_id", *newval, source);
}

/* The bytes are sent to the broker as the configuration file has them. */
static bool
check_exchange(char **newval, void **extra, GucSource source)
{
	const char *problem = cqrs_exchange_problem(*newval != NULL ? *newval : "");

	if (problem == NULL)
		return cqrs_guc_check_source(source);
	cqrs_guc_refuse(source);
	GUC_check_errdetail("%s", problem);
	return false;
}

/* Only the form of the list is checked. */
static bool
check_exchanges(char **newval, void **extra, GucSource source)
{
	List	   *names;
	bool		valid = SplitGUCList(pstrdup(*newval), ',', &names);

	list_free(names);
	if (!valid)
		GUC_check_errdetail("List syntax is invalid.");
	return valid;
}

bool
cqrs_guc_allows_exchange(const char *name)
{
	List	   *names;
	ListCell   *lc;

	if (strcmp(name, cqrs_exchange) == 0)
		return true;
	if (!SplitGUCList(pstrdup(allowed_exchanges), ',', &names))
		elog(ERROR, "\"cqrs.allowed_exchanges\" is not a list");
	foreach(lc, names)
	{
		const char *allowed = lfirst(lc);

		if (strcmp(allowed, "*") == 0 || strcmp(allowed, name) == 0)
			return true;
	}
	return false;
}
