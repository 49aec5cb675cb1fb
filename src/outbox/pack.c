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
 *	  bits			1 byte, a bit for each optional part that is not NULL
 *	  parts			those of cqrs_message_parts (message.c), in that order: an
 *					integer as 4 bytes, in the byte order of the machine; a
 *					string with a zero at its end, in the database's encoding
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
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "outbox/pack.h"

PG_FUNCTION_INFO_V1(cqrs_sql_unpack);

/* Smaller packs are not worth compressing. */
#define COMPRESS_BYTES	1500

/* What cqrs.unpack() keeps from call to call. */
typedef struct Unpacking
{
	CqrsPackReader reader;
	int			id;				/* these are numbers of columns */
	int			signal_type;
	int			body;
	int			parts[FLEXIBLE_ARRAY_MEMBER];	/* 0 or less: not shown */
} Unpacking;

static int	read_int(CqrsPackReader *reader);
static const char *read_string(CqrsPackReader *reader);
static void check_length(const CqrsPackReader *reader, Size length);
static void malformed(void);
static Unpacking *begin_unpacking(TupleDesc desc);
static void unpack_message(const Unpacking *unpacking,
						   const CqrsMessage *message, Datum *values,
						   bool *nulls);
static void verify(const CqrsMessagePart *part, const CqrsMessage *message);

void
cqrs_pack_append(StringInfo contents, const CqrsMessage *message)
{
	const CqrsMessagePart *end = cqrs_message_parts + cqrs_message_nparts;
	int			bits_at = contents->len + 1;
	uint8		bits = 0;

	appendStringInfoChar(contents, message->signal);
	appendStringInfoChar(contents, 0);
	for (const CqrsMessagePart *part = cqrs_message_parts; part < end; part++)
	{
		const char *data;
		int			length = sizeof(int);

		if (part->type == CQRS_PART_INT)
		{
			data = (const char *) cqrs_message_part_int(part, message);
			if (part->bit != 0 && *cqrs_message_part_int(part, message) < 0)
				continue;
		}
		else
		{
			data = *cqrs_message_part_text(part, message);
			if (part->bit != 0 && data == NULL)
				continue;
			length = strlen(data) + 1;
		}
		bits |= part->bit;
		appendBinaryStringInfo(contents, data, length);
	}
	contents->data[bits_at] = bits;
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
	const CqrsMessagePart *end = cqrs_message_parts + cqrs_message_nparts;
	uint8		bits;

	if (reader->next == reader->end)
		return false;
	check_length(reader, 2);
	message->id = reader->next_id++;
	message->signal = *reader->next++;
	if (message->signal != CQRS_SIGNAL_SAVE && message->signal != CQRS_SIGNAL_DELETE &&
		message->signal != CQRS_SIGNAL_SYNC)
		malformed();
	bits = *reader->next++;
	for (const CqrsMessagePart *part = cqrs_message_parts; part < end; part++)
	{
		bool		present = (bits & part->bit) == part->bit;

		if (part->type == CQRS_PART_INT)
			*cqrs_message_part_int(part, message) = present ? read_int(reader) : -1;
		else
			*cqrs_message_part_text(part, message) =
				present ? read_string(reader) : NULL;
		bits &= ~part->bit;
	}
	/* A part that this version does not know would be taken for a message. */
	if (bits != 0)
		malformed();
	return true;
}

/* Read on by an integer.  Raises an error if the pack has none here. */
static int
read_int(CqrsPackReader *reader)
{
	int			value;

	check_length(reader, sizeof(value));
	memcpy(&value, reader->next, sizeof(value));
	reader->next += sizeof(value);
	return value;
}

/* The same by a string, which stays a part of the pack. */
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

/* Raise an error unless the pack has so many bytes more. */
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
			 errdetail("Only the column \"messages\" of a segment contains packs of messages."),
			 errhint("See cqrs.outbox for the messages that are pending.")));
}

/*
 * cqrs.unpack(first_id bigint, messages bytea, OUT id bigint,
 * OUT signal_type text, ..., OUT body text) RETURNS SETOF
 *
 * The messages of a pack, with the bodies that they would have if they were
 * published now.  The other columns are parts of messages, found by name.
 */
Datum
cqrs_sql_unpack(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	Unpacking  *unpacking;
	CqrsMessage message;
	Datum	   *values;
	bool	   *nulls;

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext caller;
		TupleDesc	desc;

		context = SRF_FIRSTCALL_INIT();
		caller = MemoryContextSwitchTo(context->multi_call_memory_ctx);
		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "unexpected result type");
		context->tuple_desc = BlessTupleDesc(desc);
		context->user_fctx = begin_unpacking(desc);
		unpacking = context->user_fctx;
		cqrs_pack_open(&unpacking->reader,
					   PointerGetDatum(PG_GETARG_BYTEA_P_COPY(1)),
					   PG_GETARG_INT64(0));
		MemoryContextSwitchTo(caller);
	}

	context = SRF_PERCALL_SETUP();
	unpacking = context->user_fctx;
	if (!cqrs_pack_next(&unpacking->reader, &message))
		SRF_RETURN_DONE(context);

	values = palloc0(sizeof(Datum) * context->tuple_desc->natts);
	nulls = palloc0(sizeof(bool) * context->tuple_desc->natts);
	unpack_message(unpacking, &message, values, nulls);
	SRF_RETURN_NEXT(context,
					HeapTupleGetDatum(heap_form_tuple(context->tuple_desc,
													  values, nulls)));
}

/*
 * Find the columns of the result, in which parts of a message may be missing.
 * An error if the result has other columns.
 */
static Unpacking *
begin_unpacking(TupleDesc desc)
{
	Unpacking  *unpacking = palloc0(offsetof(Unpacking, parts) +
									sizeof(int) * cqrs_message_nparts);
	int			nshown = 3;

	unpacking->id = SPI_fnumber(desc, "id");
	unpacking->signal_type = SPI_fnumber(desc, "signal_type");
	unpacking->body = SPI_fnumber(desc, "body");
	for (int i = 0; i < cqrs_message_nparts; i++)
	{
		unpacking->parts[i] = SPI_fnumber(desc, cqrs_message_parts[i].name);
		nshown += unpacking->parts[i] > 0;
	}
	if (unpacking->id <= 0 || unpacking->signal_type <= 0 ||
		unpacking->body <= 0 || nshown != desc->natts)
		elog(ERROR, "unexpected result type");
	return unpacking;
}

/*
 * Fill in a row of the result.  Raises an error for a text that is not valid.
 */
static void
unpack_message(const Unpacking *unpacking, const CqrsMessage *message,
			   Datum *values, bool *nulls)
{
	StringInfoData body;
	int			expires_at;

	for (int i = 0; i < cqrs_message_nparts; i++)
	{
		const CqrsMessagePart *part = &cqrs_message_parts[i];
		int			column = unpacking->parts[i];

		verify(part, message);
		if (column > 0)
			values[column - 1] = cqrs_message_part_get(part, message,
													   &nulls[column - 1]);
	}
	initStringInfo(&body);
	cqrs_message_body(&body, message, &expires_at);
	values[unpacking->id - 1] = Int64GetDatum(message->id);
	values[unpacking->signal_type - 1] =
		CStringGetTextDatum(cqrs_signal_name(message->signal));
	values[unpacking->body - 1] = CStringGetTextDatum(body.data);
}

/* An error if a text is not valid in the encoding of the database. */
static void
verify(const CqrsMessagePart *part, const CqrsMessage *message)
{
	const char *text;

	if (part->type == CQRS_PART_INT)
		return;
	text = *cqrs_message_part_text(part, message);

	if (text != NULL)
		(void) pg_verifymbstr(text, strlen(text), false);
}
