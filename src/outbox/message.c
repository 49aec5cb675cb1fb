/*-------------------------------------------------------------------------
 *
 * message.c
 *	  The body of a message, as django-cqrs's replicas read it.
 *
 * The outbox keeps a message in its parts.  The body is put together when the
 * message is published, because "expires" counts from then: an outage that
 * lasts longer than the time to live of messages must not make them expire.
 * Keys and their order are django-cqrs's (docs/wire-format.md).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "base/guc.h"
#include "outbox/message.h"

char *
cqrs_message_routing_key(const CqrsMessage *message)
{
	if (message->queue != NULL)
		return psprintf("cqrs.%s.%s", message->queue, message->cqrs_id);
	return pstrdup(message->routing_key != NULL ? message->routing_key :
				   message->cqrs_id);
}

int
cqrs_message_ttl(const CqrsMessage *message)
{
	return message->ttl_s >= 0 ? message->ttl_s : cqrs_message_ttl_s;
}

void
cqrs_message_body(StringInfo out, const CqrsMessage *message, int *expires_at)
{
	int			ttl_s = cqrs_message_ttl(message);

	appendStringInfo(out, "{\"signal_type\":\"%s\",\"cqrs_id\":",
					 cqrs_signal_name(message->signal));
	escape_json(out, message->cqrs_id);
	appendStringInfoString(out, ",\"instance_data\":");
	appendStringInfoString(out, message->instance_data);
	appendStringInfoString(out, ",\"previous_data\":");
	appendStringInfoString(out, message->previous_data != NULL ?
						   message->previous_data : "null");
	appendStringInfoString(out, ",\"instance_pk\":");
	appendStringInfoString(out, message->instance_pk);
	appendStringInfoString(out, ",\"correlation_id\":");
	if (message->correlation_id != NULL)
		escape_json(out, message->correlation_id);
	else
		appendStringInfoString(out, "null");
	appendStringInfoString(out, ",\"retries\":0,\"expires\":");
	*expires_at = -1;
	if (ttl_s > 0)
	{
		char		expires[CQRS_EXPIRES_LEN + 1];

		cqrs_message_expires(expires,
							 TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														 ttl_s * INT64CONST(1000)));
		appendStringInfoChar(out, '"');
		*expires_at = out->len;
		appendStringInfo(out, "%s\"", expires);
	}
	else
		appendStringInfoString(out, "null");
	appendStringInfo(out, ",\"meta\":%s}",
					 message->meta != NULL ? message->meta : "{}");
}

void
cqrs_message_expires(char *buf, TimestampTz time)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(time, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	snprintf(buf, CQRS_EXPIRES_LEN + 1, "%04d-%02d-%02dT%02d:%02d:%02d+00:00",
			 tm.tm_year, tm.tm_mon, tm.tm_mday,
			 tm.tm_hour, tm.tm_min, tm.tm_sec);
}
