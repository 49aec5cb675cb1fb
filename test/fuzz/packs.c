/*-------------------------------------------------------------------------
 *
 * packs.c
 *	  Any bytes as a pack of messages, for libFuzzer; "make fuzz" runs it.
 *
 * usage: packs [option of libFuzzer ...] [folder | file ...]
 *
 * A folder that comes first gets inputs to begin with.
 *
 * Whatever the bytes are, nothing outside of them is read, and they are either
 * refused with the error for it or are what is packed of the messages that were
 * read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "outbox/pack.h"
#include "fuzz.h"

struct varlena *
pg_detoast_datum_packed(struct varlena *datum)
{
	return datum;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
	struct varlena *value = malloc(VARHDRSZ + length);
	StringInfoData again;
	CqrsPackReader reader;
	CqrsMessage message;

	SET_VARSIZE(value, VARHDRSZ + length);
	memcpy(VARDATA(value), data, length);
	initStringInfo(&again);
	cqrs_pack_open(&reader, PointerGetDatum(value), 1);
	PG_TRY();
	{
		while (cqrs_pack_next(&reader, &message))
			cqrs_pack_append(&again, &message);
		CHECK(again.len == length && memcmp(again.data, data, length) == 0);
	}
	PG_CATCH();
	{
		CHECK(geterrcode() == ERRCODE_INVALID_BINARY_REPRESENTATION);
	}
	PG_END_TRY();
	pfree(again.data);
	free(value);
	return 0;
}

void
make_seeds(void)
{
	CqrsMessage message = {
		.signal = CQRS_SIGNAL_SAVE,.ttl_s = -1,.cqrs_id = "author",
		.instance_pk = "1",.instance_data = "{\"id\":1}"
	};
	StringInfoData pack;

	initStringInfo(&pack);
	cqrs_pack_append(&pack, &message);
	write_seed("plain", pack.data, pack.len);
	message.signal = CQRS_SIGNAL_SYNC;
	message.previous_data = message.meta = "{}";
	message.queue = message.correlation_id = "q";
	message.exchange = message.routing_key = "e";
	cqrs_pack_append(&pack, &message);
	write_seed("full", pack.data, pack.len);
	pfree(pack.data);
}
