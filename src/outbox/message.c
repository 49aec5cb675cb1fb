/*-------------------------------------------------------------------------
 *
 * message.c
 *	  The parts of a message; its body, as django-cqrs's replicas read it.
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

#define PART(name) offsetof(CqrsMessage, name)

/*
 * Segments that are filled must stay readable: a further part comes at the end
 * and has the next bit of the eight.
 */
const CqrsMessagePart cqrs_message_parts[] = {
	{"message_ttl", PART(ttl_s), CQRS_PART_INT, 0, NULL},
	{"cqrs_id", PART(cqrs_id), CQRS_PART_TEXT, 0, NULL},
	{"instance_pk", PART(instance_pk), CQRS_PART_JSON, 0, NULL},
	{"instance_data", PART(instance_data), CQRS_PART_JSON, 0, NULL},
	{"previous_data", PART(previous_data), CQRS_PART_JSON, 1 << 0, NULL},
	{"meta", PART(meta), CQRS_PART_JSON, 1 << 1, NULL},
	{"queue", PART(queue), CQRS_PART_TEXT, 1 << 2, NULL},
	{"correlation_id", PART(correlation_id), CQRS_PART_TEXT, 1 << 3,
	"correlation_id"},
	{"exchange", PART(exchange), CQRS_PART_TEXT, 1 << 4, NULL},
	{"routing_key", PART(routing_key), CQRS_PART_TEXT, 1 << 5, NULL}
};

const int	cqrs_message_nparts = lengthof(cqrs_message_parts);

Datum
cqrs_message_part_get(const CqrsMessagePart *part, const CqrsMessage *message,
					  bool *isnull)
{
	const char *text;

	if (part->type == CQRS_PART_INT)
	{
		*isnull = *cqrs_message_part_int(part, message) < 0;
		return Int32GetDatum(*cqrs_message_part_int(part, message));
	}
	text = *cqrs_message_part_text(part, message);
	*isnull = text == NULL;
	return text == NULL ? (Datum) 0 : CStringGetTextDatum(text);
}

void
cqrs_message_part_set(const CqrsMessagePart *part, CqrsMessage *message, Datum value,
					  bool isnull)
{
	if (part->type == CQRS_PART_INT)
		*cqrs_message_part_int(part, message) = isnull ? -1 : DatumGetInt32(value);
	else
		*cqrs_message_part_text(part, message) =
			isnull ? NULL : TextDatumGetCString(value);
}

void
cqrs_message_copy_texts(CqrsMessage *message)
{
	for (int i = 0; i < cqrs_message_nparts; i++)
	{
		const CqrsMessagePart *part = &cqrs_message_parts[i];
		const char **text;

		if (part->type == CQRS_PART_INT)
			continue;
		text = cqrs_message_part_text(part, message);

		if (*text != NULL)
			*text = pstrdup(*text);
	}
}

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

	/* No formats: they took a sixth of the publisher's time (perf). */
	appendStringInfoString(out, "{\"signal_type\":\"");
	appendStringInfoString(out, cqrs_signal_name(message->signal));
	appendStringInfoString(out, "\",\"cqrs_id\":");
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
		char		expires[CQRS_EXPIRES_LEN];

		cqrs_message_expires(expires, ttl_s);
		appendStringInfoChar(out, '"');
		*expires_at = out->len;
		appendBinaryStringInfo(out, expires, CQRS_EXPIRES_LEN);
		appendStringInfoChar(out, '"');
	}
	else
		appendStringInfoString(out, "null");
	appendStringInfoString(out, ",\"meta\":");
	appendStringInfoString(out, message->meta != NULL ? message->meta : "{}");
	appendStringInfoChar(out, '}');
}

void
cqrs_message_expires(char *buf, int ttl_s)
{
	static char text[CQRS_EXPIRES_LEN + 1];
	static TimestampTz second = 0;
	TimestampTz time = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   ttl_s * INT64CONST(1000));
	struct pg_tm tm;
	fsec_t		fsec;

	/* One text serves all messages of the same second. */
	if (text[0] == '\0' || time / USECS_PER_SEC != second)
	{
		if (timestamp2tm(time, NULL, &tm, &fsec, NULL, NULL) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
					 errmsg("timestamp out of range")));
		snprintf(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d+00:00",
				 tm.tm_year, tm.tm_mon, tm.tm_mday,
				 tm.tm_hour, tm.tm_min, tm.tm_sec);
		second = time / USECS_PER_SEC;
	}
	memcpy(buf, text, CQRS_EXPIRES_LEN);
}
