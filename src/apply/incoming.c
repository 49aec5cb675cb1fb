/*-------------------------------------------------------------------------
 *
 * incoming.c
 *	  Messages as values of the type cqrs.message.
 *
 * Handlers get such values, triggers ask for them, and cqrs_apply() takes
 * them.  Callers can make up values, so the values are checked as bodies are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "apply/incoming.h"
#include "base/objects.h"

PG_FUNCTION_INFO_V1(cqrs_sql_parse_message);
PG_FUNCTION_INFO_V1(cqrs_sql_current_message);

/* The attributes of cqrs.message. */
enum
{
	SIGNAL_TYPE, CQRS_ID, INSTANCE_DATA, PREVIOUS_DATA, INSTANCE_PK,
	CORRELATION_ID, RETRIES, EXPIRES, META, MESSAGE_ID, DIRECT, NATTS
};

const CqrsIncoming *cqrs_incoming_current = NULL;

static TupleDesc descriptor(void);
static void set_text(Datum *value, bool *isnull, const char *text);
static char *get_text(const Datum *values, const bool *nulls, int att,
					  const char *name);

Datum
cqrs_incoming_to_datum(const CqrsIncoming *message)
{
	TupleDesc	desc = descriptor();
	Datum		values[NATTS] = {0};
	bool		nulls[NATTS] = {0};

	set_text(&values[SIGNAL_TYPE], &nulls[SIGNAL_TYPE],
			 cqrs_signal_name(message->signal));
	set_text(&values[CQRS_ID], &nulls[CQRS_ID], message->cqrs_id);
	set_text(&values[INSTANCE_DATA], &nulls[INSTANCE_DATA],
			 message->instance_data);
	set_text(&values[PREVIOUS_DATA], &nulls[PREVIOUS_DATA],
			 message->previous_data);
	set_text(&values[INSTANCE_PK], &nulls[INSTANCE_PK], message->instance_pk);
	set_text(&values[CORRELATION_ID], &nulls[CORRELATION_ID],
			 message->correlation_id);
	values[RETRIES] = Int32GetDatum(message->retries);
	values[EXPIRES] = TimestampTzGetDatum(message->expires_at);
	nulls[EXPIRES] = !message->expires;
	set_text(&values[META], &nulls[META], message->meta);
	set_text(&values[MESSAGE_ID], &nulls[MESSAGE_ID], message->message_id);
	values[DIRECT] = BoolGetDatum(message->direct);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* The attributes of cqrs.message. */
static TupleDesc
descriptor(void)
{
	return lookup_rowtype_tupdesc_copy(cqrs_objects_get(false)->message_type,
									   -1);
}

/* A copy of a text as a value; NULL is null. */
static void
set_text(Datum *value, bool *isnull, const char *text)
{
	*isnull = text == NULL;

	if (text != NULL)
		*value = CStringGetTextDatum(text);
}

void
cqrs_incoming_from_datum(Datum value, CqrsIncoming *message)
{
	TupleDesc	desc = descriptor();
	HeapTupleHeader header = DatumGetHeapTupleHeader(value);
	HeapTupleData tuple = {0};
	Datum		values[NATTS];
	bool		nulls[NATTS];
	char	   *signal;
	char	   *problem;
	bool		bare;

	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	tuple.t_data = header;
	heap_deform_tuple(&tuple, desc, values, nulls);

	memset(message, 0, sizeof(*message));
	signal = get_text(values, nulls, SIGNAL_TYPE, "signal_type");
	if (!cqrs_signal_parse(signal, &message->signal))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("message has an unknown signal_type"),
				 errhint("The signals are SAVE, DELETE and SYNC.")));
	message->cqrs_id = get_text(values, nulls, CQRS_ID, "cqrs_id");
	message->instance_data = get_text(values, nulls, INSTANCE_DATA,
									  "instance_data");
	message->instance_pk = get_text(values, nulls, INSTANCE_PK, "instance_pk");
	message->previous_data = get_text(values, nulls, PREVIOUS_DATA, NULL);
	message->correlation_id = get_text(values, nulls, CORRELATION_ID, NULL);
	message->meta = get_text(values, nulls, META, NULL);
	message->message_id = get_text(values, nulls, MESSAGE_ID, NULL);
	message->retries = nulls[RETRIES] ? 0 : DatumGetInt32(values[RETRIES]);
	message->expires = !nulls[EXPIRES];
	if (message->expires)
		message->expires_at = DatumGetTimestampTz(values[EXPIRES]);
	message->direct = !nulls[DIRECT] && DatumGetBool(values[DIRECT]);

	problem = cqrs_json_scan_object(message->instance_data,
									strlen(message->instance_data),
									&message->data, NULL, NULL, &bare);
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("message has invalid instance_data"),
				 errdetail_internal("%s", problem)));
}

/* A text or json; with a name it must not be null. */
static char *
get_text(const Datum *values, const bool *nulls, int att, const char *name)
{
	if (!nulls[att])
		return TextDatumGetCString(values[att]);
	if (name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s of a message must not be null", name)));
	return NULL;
}

/* cqrs.parse_message(body text) RETURNS cqrs.message */
Datum
cqrs_sql_parse_message(PG_FUNCTION_ARGS)
{
	text	   *body = PG_GETARG_TEXT_PP(0);
	CqrsIncoming message = {0};
	char	   *problem;

	message.body = pg_server_to_any(VARDATA_ANY(body), VARSIZE_ANY_EXHDR(body),
									PG_UTF8);
	message.length = message.body == VARDATA_ANY(body) ?
		VARSIZE_ANY_EXHDR(body) : strlen(message.body);
	problem = cqrs_envelope_read(&message);
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("body is not a message"),
				 errdetail_internal("%s", problem)));
	PG_RETURN_DATUM(cqrs_incoming_to_datum(&message));
}

/* cqrs_current_message() RETURNS cqrs.message */
Datum
cqrs_sql_current_message(PG_FUNCTION_ARGS)
{
	if (cqrs_incoming_current == NULL)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(cqrs_incoming_to_datum(cqrs_incoming_current));
}
