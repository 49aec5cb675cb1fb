/*-------------------------------------------------------------------------
 *
 * pack.c
 *	  Messages packed into one value, as the rows of segments hold them.
 *
 * A transaction's messages are much alike: the same keys, often the same
 * values.  Packed together and compressed, they take a fraction of the pages
 * and of the WAL that a row for each would take, and one index entry instead
 * of many.  Writing rows and index entries was most of the cost of capture.
 * src/README has the figures.
 *
 * A pack has no head of its own.  Each message in it is
 *
 *	  signal		1 byte
 *	  parts			1 byte, a bit for each optional part that is not NULL
 *	  ttl_s			4 bytes, in the byte order of the machine
 *	  strings		cqrs_id, instance_pk, instance_data, then the optional ones,
 *					each with a zero at its end, in the database's encoding
 *
 * so that reading is a walk that copies nothing.  The ids are consecutive.
 *
 * Compression is PostgreSQL's own, by LZ4, into the form of a compressed
 * column value, so that PostgreSQL decompresses the value wherever it is read.
 * A server that was built without LZ4 stores packs that fit a page
 * uncompressed, since pglz would cost the writer more than it saves.
 *
 * Anybody can call cqrs.unpack() with any bytes, so reading checks everything.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/toast_compression.h"
#include "access/toast_internals.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "outbox/pack.h"

PG_FUNCTION_INFO_V1(cqrs_sql_unpack);

/* Smaller packs are not worth compressing. */
#define COMPRESS_BYTES	1500

/* The optional parts, in the order in which they are packed. */
static const size_t optional_parts[] = {
	offsetof(CqrsMessage, previous_data),
	offsetof(CqrsMessage, meta),
	offsetof(CqrsMessage, queue),
	offsetof(CqrsMessage, correlation_id),
	offsetof(CqrsMessage, exchange),
	offsetof(CqrsMessage, routing_key)
};

#define OPTIONAL_PART(message, i) \
	((const char **) ((char *) (message) + optional_parts[i]))

static void append_string(StringInfo contents, const char *string);
static const char *read_string(CqrsPackReader *reader);
static void check_length(const CqrsPackReader *reader, Size length);
static void malformed(void);
static Datum text_datum(const char *string, bool *isnull);

void
cqrs_pack_append(StringInfo contents, const CqrsMessage *message)
{
	uint8		parts = 0;

	for (int i = 0; i < lengthof(optional_parts); i++)
	{
		if (*OPTIONAL_PART(message, i) != NULL)
			parts |= 1 << i;
	}
	appendStringInfoChar(contents, message->signal);
	appendStringInfoChar(contents, parts);
	appendBinaryStringInfo(contents, (const char *) &message->ttl_s,
						   sizeof(message->ttl_s));
	append_string(contents, message->cqrs_id);
	append_string(contents, message->instance_pk);
	append_string(contents, message->instance_data);
	for (int i = 0; i < lengthof(optional_parts); i++)
	{
		if (*OPTIONAL_PART(message, i) != NULL)
			append_string(contents, *OPTIONAL_PART(message, i));
	}
}

/* Append a string with its terminating zero. */
static void
append_string(StringInfo contents, const char *string)
{
	appendBinaryStringInfo(contents, string, strlen(string) + 1);
}

Datum
cqrs_pack_value(const char *contents, int length)
{
	struct varlena *value = palloc(VARHDRSZ + length);

	SET_VARSIZE(value, VARHDRSZ + length);
	memcpy(VARDATA(value), contents, length);
#ifdef USE_LZ4
	if (length >= COMPRESS_BYTES)
	{
		Datum		compressed = toast_compress_datum(PointerGetDatum(value),
													  TOAST_LZ4_COMPRESSION);

		if (DatumGetPointer(compressed) != NULL)
		{
			pfree(value);
			return compressed;
		}
	}
#endif
	return PointerGetDatum(value);
}

void
cqrs_pack_open(CqrsPackReader *reader, Datum value, int64 first_id)
{
	struct varlena *pack = PG_DETOAST_DATUM_PACKED(value);

	reader->next = VARDATA_ANY(pack);
	reader->end = reader->next + VARSIZE_ANY_EXHDR(pack);
	reader->next_id = first_id;
}

bool
cqrs_pack_next(CqrsPackReader *reader, CqrsMessage *message)
{
	uint8		parts;

	if (reader->next == reader->end)
		return false;
	check_length(reader, 2 + sizeof(message->ttl_s));
	message->id = reader->next_id++;
	message->signal = *reader->next++;
	if (message->signal != CQRS_SAVE && message->signal != CQRS_DELETE &&
		message->signal != CQRS_SYNC)
		malformed();
	parts = *reader->next++;
	memcpy(&message->ttl_s, reader->next, sizeof(message->ttl_s));
	reader->next += sizeof(message->ttl_s);
	message->cqrs_id = read_string(reader);
	message->instance_pk = read_string(reader);
	message->instance_data = read_string(reader);
	for (int i = 0; i < lengthof(optional_parts); i++)
		*OPTIONAL_PART(message, i) =
			(parts & 1 << i) != 0 ? read_string(reader) : NULL;
	return true;
}

static const char *
read_string(CqrsPackReader *reader)
{
	const char *string = reader->next;
	const char *zero = memchr(string, '\0', reader->end - string);

	if (zero == NULL)
		malformed();
	reader->next = zero + 1;
	return string;
}

static void
check_length(const CqrsPackReader *reader, Size length)
{
	if (reader->end - reader->next < length)
		malformed();
}

static void
malformed(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
			 errmsg("malformed pack of messages"),
			 errdetail("Only what a segment has in its column \"messages\" is one."),
			 errhint("See cqrs.outbox for the messages that are pending.")));
}

/*
 * cqrs.unpack(first_id bigint, messages bytea, OUT id bigint,
 * OUT signal_type text, OUT cqrs_id text, OUT instance_pk text,
 * OUT queue text, OUT correlation_id text, OUT exchange text,
 * OUT routing_key text, OUT message_ttl integer, OUT body text) RETURNS SETOF
 *
 * The messages of a pack, with the bodies that they would have if they were
 * published now.
 */
Datum
cqrs_sql_unpack(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	CqrsPackReader *reader;
	CqrsMessage message;
	StringInfoData body;
	int			expires_at;
	Datum		values[10];
	bool		nulls[10] = {false};

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext caller;
		TupleDesc	desc;

		context = SRF_FIRSTCALL_INIT();
		caller = MemoryContextSwitchTo(context->multi_call_memory_ctx);
		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
			desc->natts != lengthof(values))
			elog(ERROR, "unexpected result type");
		context->tuple_desc = BlessTupleDesc(desc);
		context->user_fctx = reader = palloc(sizeof(CqrsPackReader));
		cqrs_pack_open(reader, PointerGetDatum(PG_GETARG_BYTEA_P_COPY(1)),
					   PG_GETARG_INT64(0));
		MemoryContextSwitchTo(caller);
	}

	context = SRF_PERCALL_SETUP();
	reader = context->user_fctx;
	if (!cqrs_pack_next(reader, &message))
		SRF_RETURN_DONE(context);

	initStringInfo(&body);
	cqrs_message_body(&body, &message, &expires_at);
	values[0] = Int64GetDatum(message.id);
	values[1] = text_datum(cqrs_signal_name(message.signal), &nulls[1]);
	values[2] = text_datum(message.cqrs_id, &nulls[2]);
	values[3] = text_datum(message.instance_pk, &nulls[3]);
	values[4] = text_datum(message.queue, &nulls[4]);
	values[5] = text_datum(message.correlation_id, &nulls[5]);
	values[6] = text_datum(message.exchange, &nulls[6]);
	values[7] = text_datum(message.routing_key, &nulls[7]);
	nulls[8] = message.ttl_s < 0;
	values[8] = Int32GetDatum(message.ttl_s);
	values[9] = text_datum(body.data, &nulls[9]);
	SRF_RETURN_NEXT(context,
					HeapTupleGetDatum(heap_form_tuple(context->tuple_desc,
													  values, nulls)));
}

static Datum
text_datum(const char *string, bool *isnull)
{
	*isnull = string == NULL;
	if (*isnull)
		return (Datum) 0;
	(void) pg_verifymbstr(string, strlen(string), false);
	return CStringGetTextDatum(string);
}
