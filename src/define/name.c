/*-------------------------------------------------------------------------
 *
 * name.c
 *	  Names that users give and the broker gets.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "base/exchange.h"
#include "base/limits.h"
#include "define/name.h"
#include "define/option.h"

static char *utf8_of(Datum value);

/*
 * The cqrs_id becomes a routing key.  Only the binding keys of queues may have
 * "*" and "#".
 */
void
cqrs_name_check_id(const char *cqrs_id)
{
	if (cqrs_id[0] == '\0' || strlen(cqrs_id) > CQRS_ID_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid cqrs_id \"%s\"", cqrs_id),
				 errdetail("The cqrs_id must have 1 to %d bytes.", CQRS_ID_BYTES),
				 errhint("Choose another name with the argument \"cqrs_id\".")));
	for (const char *c = cqrs_id; *c != '\0'; c++)
	{
		if (*c == '*' || *c == '#' || (unsigned char) *c <= ' ')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_NAME),
					 errmsg("invalid cqrs_id \"%s\"", cqrs_id),
					 errdetail("The cqrs_id is used as a routing key, and must not contain \"*\", \"#\", blanks or control characters."),
					 errhint("Choose another name with the argument \"cqrs_id\".")));
	}
}

void
cqrs_name_check_exchange(const char *name, Datum value)
{
	const char *problem = cqrs_exchange_problem(utf8_of(value));

	if (problem != NULL)
		cqrs_option_refuse(name, problem);
}

void
cqrs_name_check_routing_key(const char *name, Datum value)
{
	char	   *key = utf8_of(value);

	if (key[0] == '\0' || strlen(key) > CQRS_SHORTSTR_BYTES)
		cqrs_option_refuse(name,
						   psprintf("The routing key must have 1 to %d bytes in UTF-8.",
									CQRS_SHORTSTR_BYTES));
}

/* A text in the encoding of the protocol, UTF-8. */
static char *
utf8_of(Datum value)
{
	char	   *string = TextDatumGetCString(value);

	return pg_server_to_any(string, strlen(string), PG_UTF8);
}
