/*-------------------------------------------------------------------------
 *
 * exchange.c
 *	  Names of exchanges.
 *
 * A name that the broker would refuse, or take for another exchange, is
 * refused when it is set: a message keeps the exchange that its master had,
 * and would be held for ever.  RabbitMQ reserves the prefix "amq." for its own
 * exchanges.  Of these, "amq.topic" is accepted: it is a durable topic
 * exchange, as the publisher declares exchanges.  RabbitMQ drops line feeds
 * from a name when it declares the exchange, but not when it publishes to the
 * exchange.  Leases have an exchange of their own, of another type
 * (broker/amqp_token.c): declared as a topic exchange, it would keep every
 * publisher and consumer of the virtual host from its lease.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "base/exchange.h"
#include "base/limits.h"

const char *
cqrs_exchange_problem(const char *name)
{
	size_t		length = strlen(name);

	if (length == 0)
		return "The name of the exchange is empty.";
	if (length > CQRS_SHORTSTR_BYTES)
		return psprintf("The name is longer than %d bytes in UTF-8.",
						CQRS_SHORTSTR_BYTES);
	if (!pg_verify_mbstr(PG_UTF8, name, length, true))
		return "The name is not valid UTF-8.";
	for (const char *c = name; *c != '\0'; c++)
	{
		if ((unsigned char) *c < ' ' || *c == 0x7f)
			return "The name has a control character.";
	}
	if (strncmp(name, "amq.", 4) == 0 && strcmp(name, "amq.topic") != 0)
		return "Names that begin with \"amq.\" are reserved by the broker, apart from \"amq.topic\".";
	if (strcmp(name, CQRS_LEASE_EXCHANGE) == 0)
		return "The exchange of that name is for leases.";
	return NULL;
}
