/*-------------------------------------------------------------------------
 *
 * envelope.c
 *	  The envelope of a message, read.
 *
 * Bodies are hostile.  A body is checked to be UTF-8, converted to the
 * encoding of the database, and scanned once, for the members of the envelope
 * and those of instance_data; nothing here raises an error.  Of equal keys the
 * last one counts, as in Python's parser and in jsonb.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/json.h"

#include "apply/envelope.h"
#include "apply/iso_time.h"
#include "base/compat.h"

/* Longer keys are refused: no index of a table takes them. */
#define MAX_KEY_BYTES	(1024 * 1024)

static char *to_database_encoding(CqrsIncoming *message, const char **text,
								  int *length);
static char *read_members(CqrsIncoming *message,
						  const CqrsJsonMembers *envelope);
static char *read_signal(CqrsIncoming *message, const CqrsJsonValue *json);
static char *read_cqrs_id(CqrsIncoming *message, const CqrsJsonValue *json);
static char *read_instance_data(CqrsIncoming *message,
								const CqrsJsonValue *json);
static char *read_instance_pk(CqrsIncoming *message,
							  const CqrsJsonValue *json);
static char *read_correlation_id(CqrsIncoming *message,
								 const CqrsJsonValue *json);
static char *read_retries(CqrsIncoming *message, const CqrsJsonValue *json);
static char *read_expires(CqrsIncoming *message, const CqrsJsonValue *json);
static bool append_compact(StringInfo buf, const CqrsJsonValue *json,
						   const char **problem);
static bool append_scalar(StringInfo buf, const CqrsJsonValue *json,
						  const char **problem);

char *
cqrs_envelope_read(CqrsIncoming *message)
{
	CqrsJsonMembers envelope = {0};
	const char *text;
	int			length;
	bool		bare;
	char	   *problem;

	message->cqrs_id = NULL;
	message->instance_pk = NULL;
	message->instance_data = NULL;
	message->previous_data = NULL;
	message->meta = NULL;
	message->correlation_id = NULL;
	message->retries = 0;
	message->expires = false;
	message->expires_at = 0;
	memset(&message->data, 0, sizeof(message->data));

	problem = to_database_encoding(message, &text, &length);
	if (problem == NULL)
		problem = cqrs_json_scan_object(text, length, &envelope,
										"instance_data", &message->data, &bare);
	if (problem == NULL && bare)
	{
		text = cqrs_json_scan_quote_bare(text, length, &length);

		problem = cqrs_json_scan_object(text, length, &envelope,
										"instance_data", &message->data, &bare);
	}
	if (problem != NULL)
		return problem;
	return read_members(message, &envelope);
}

/* The body in the encoding of the database, or what is wrong with it. */
static char *
to_database_encoding(CqrsIncoming *message, const char **text, int *length)
{
	int			encoding = GetDatabaseEncoding();
	Size		size;
	char	   *converted;
	Oid			proc;

	*text = message->body;
	*length = message->length;
	if (message->length > MaxAllocSize / MAX_CONVERSION_GROWTH - 1)
		return psprintf("The body has %zu bytes, which is too much.",
						message->length);
	if (!pg_verify_mbstr(PG_UTF8, message->body, message->length, true))
		return pstrdup("The body is not valid UTF-8.");
	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return NULL;

	size = message->length * MAX_CONVERSION_GROWTH + 1;
	converted = palloc(size);
	proc = FindDefaultConversionProc(PG_UTF8, encoding);
	if (!OidIsValid(proc) ||
		pg_do_encoding_conversion_buf(proc, PG_UTF8, encoding,
									  (unsigned char *) unconstify(char *, message->body),
									  message->length,
									  (unsigned char *) converted, size,
									  true) != message->length)
		return psprintf("The body has a character without equivalent in the encoding \"%s\" of the database.",
						pg_encoding_to_char(encoding));
	*text = converted;
	*length = strlen(converted);
	return NULL;
}

/*
 * Read the members that were found.  Members that are read first are set even
 * if the message turns out to be invalid.
 */
static char *
read_members(CqrsIncoming *message, const CqrsJsonMembers *envelope)
{
	static const struct
	{
		const char *key;
		bool		required;
		char	   *(*read) (CqrsIncoming *message, const CqrsJsonValue *json);
	}			readers[] = {
		{"cqrs_id", true, read_cqrs_id},
		{"signal_type", true, read_signal},
		{"instance_pk", true, read_instance_pk},
		{"instance_data", true, read_instance_data},
		{"correlation_id", false, read_correlation_id},
		{"retries", false, read_retries},
		{"expires", false, read_expires},
	};
	const CqrsJsonValue *json;

	for (int i = 0; i < lengthof(readers); i++)
	{
		char	   *problem = NULL;

		json = cqrs_json_scan_find(envelope, readers[i].key);
		if (json == NULL && readers[i].required)
			return psprintf("The key \"%s\" is missing.", readers[i].key);
		if (json != NULL &&
			(readers[i].required || json->kind != CQRS_JSON_NULL))
			problem = readers[i].read(message, json);
		if (problem != NULL)
			return problem;
	}
	json = cqrs_json_scan_find(envelope, "previous_data");
	if (json != NULL && json->kind != CQRS_JSON_NULL)
		message->previous_data = pnstrdup(json->start, json->length);
	json = cqrs_json_scan_find(envelope, "meta");
	if (json != NULL && json->kind != CQRS_JSON_NULL)
		message->meta = pnstrdup(json->start, json->length);
	return NULL;
}

bool
cqrs_envelope_revision(const CqrsIncoming *message, const char *key,
					   int64 *revision)
{
	const CqrsJsonValue *value = cqrs_json_scan_find(&message->data, key);
	double		number;

	if (value == NULL || (value->kind != CQRS_JSON_NUMBER &&
						  value->kind != CQRS_JSON_STRING))
		return false;

	/*
	 * Like the column, accept 5.0 and 1e3 as whole numbers.  The column is an
	 * integer, and a double has its values exactly.  The body ends with a
	 * zero.
	 */
	number = strtod(value->start + (value->kind == CQRS_JSON_STRING), NULL);
	if (!(number >= PG_INT32_MIN && number <= PG_INT32_MAX))
		return false;
	*revision = (int64) number;
	return true;
}

char *
cqrs_envelope_compact_key(const CqrsJsonValue *key)
{
	StringInfoData buf;
	const char *problem;

	initStringInfo(&buf);
	return append_compact(&buf, key, &problem) ? buf.data : NULL;
}

/*
 * This one, and those that follow, are for read_members(): each reads a member
 * into the message, in the current context.  Returns NULL, or a sentence that
 * says what is wrong.
 */
static char *
read_signal(CqrsIncoming *message, const CqrsJsonValue *json)
{
	const char *problem;
	char	   *name = json->kind != CQRS_JSON_STRING ? NULL :
	cqrs_json_scan_string(json, &problem);

	if (name != NULL && cqrs_signal_parse(name, &message->signal))
		return NULL;
	return pstrdup("The value of \"signal_type\" is none of \"SAVE\", \"DELETE\" and \"SYNC\".");
}

static char *
read_cqrs_id(CqrsIncoming *message, const CqrsJsonValue *json)
{
	const char *problem;

	if (json->kind != CQRS_JSON_STRING)
		return pstrdup("The value of \"cqrs_id\" is not a string.");
	message->cqrs_id = cqrs_json_scan_string(json, &problem);
	return message->cqrs_id == NULL ? pstrdup(problem) : NULL;
}

static char *
read_instance_data(CqrsIncoming *message, const CqrsJsonValue *json)
{
	bool		bare;

	if (json->kind != CQRS_JSON_OBJECT)
		return pstrdup("The value of \"instance_data\" is not an object.");
	message->instance_data = pnstrdup(json->start, json->length);
	if (message->data.start == json->start)
		return NULL;
	return cqrs_json_scan_object(json->start, json->length, &message->data,
								 NULL, NULL, &bare);
}

static char *
read_instance_pk(CqrsIncoming *message, const CqrsJsonValue *json)
{
	StringInfoData buf;
	const char *problem = NULL;

	if (json->length > MAX_KEY_BYTES)
		return psprintf("The value of \"instance_pk\" has %d bytes, more than %d.",
						json->length, MAX_KEY_BYTES);
	initStringInfo(&buf);
	if (!append_compact(&buf, json, &problem))
		return pstrdup(problem);
	message->instance_pk = buf.data;
	return NULL;
}

static char *
read_correlation_id(CqrsIncoming *message, const CqrsJsonValue *json)
{
	const char *problem;

	message->correlation_id = json->kind == CQRS_JSON_STRING ?
		cqrs_json_scan_string(json, &problem) :
		pnstrdup(json->start, json->length);
	return message->correlation_id == NULL ? pstrdup(problem) : NULL;
}

static char *
read_retries(CqrsIncoming *message, const CqrsJsonValue *json)
{
	int64		retries = 0;

	for (int i = 0; i < json->length; i++)
	{
		char		digit = json->start[i];

		if (digit < '0' || digit > '9' || retries > PG_INT32_MAX)
			retries = PG_INT64_MAX / 10;
		else
			retries = retries * 10 + digit - '0';
	}
	if (retries > PG_INT32_MAX)
		return psprintf("The value of \"retries\" is not a whole number from 0 to %d.",
						PG_INT32_MAX);
	message->retries = retries;
	return NULL;
}

static char *
read_expires(CqrsIncoming *message, const CqrsJsonValue *json)
{
	if (json->kind != CQRS_JSON_STRING ||
		!cqrs_iso_time_read(json->start + 1, json->length - 2,
							&message->expires_at))
		return pstrdup("The value of \"expires\" is not a point in time.");
	message->expires = true;
	return NULL;
}

/*
 * Append a value so that equal ones are written alike: without blanks between
 * the elements of an array, and with escapes only where they are needed.
 * Elements that are no scalars stay as they are.
 */
static bool
append_compact(StringInfo buf, const CqrsJsonValue *json,
			   const char **problem)
{
	CqrsJsonMembers elements = {0};

	if (json->kind != CQRS_JSON_ARRAY)
		return append_scalar(buf, json, problem);
	cqrs_json_scan_array(json, &elements);
	appendStringInfoChar(buf, '[');
	for (int i = 0; i < elements.nmembers; i++)
	{
		if (i > 0)
			appendStringInfoChar(buf, ',');
		if (!append_scalar(buf, &elements.members[i].value, problem))
			return false;
	}
	appendStringInfoChar(buf, ']');
	return true;
}

/*
 * Append JSON that is no array, as it is, but with the escapes of a string in
 * PostgreSQL's form.  If they stand for no character, returns false and sets
 * *problem.
 */
static bool
append_scalar(StringInfo buf, const CqrsJsonValue *json, const char **problem)
{
	char	   *string;

	if (json->kind != CQRS_JSON_STRING || !json->escaped)
	{
		appendBinaryStringInfo(buf, json->start, json->length);
		return true;
	}
	string = cqrs_json_scan_string(json, problem);
	if (string != NULL)
		escape_json(buf, string);
	return string != NULL;
}
