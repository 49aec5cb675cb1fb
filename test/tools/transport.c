/*-------------------------------------------------------------------------
 *
 * transport.c
 *	  A module that calls a transport from SQL.
 *
 * For test/t/050_transport.pl and 063_redis_transport.pl.  It is linked with the objects of src/broker/.
 * A session has connections by numbers.  Functions return what has happened as
 * a text: "ok", or the blame of a failure and the reason.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "broker/failure.h"
#include "broker/socket.h"
#include "broker/transport.h"

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(transport_connect);
PG_FUNCTION_INFO_V1(transport_close);
PG_FUNCTION_INFO_V1(transport_publish);
PG_FUNCTION_INFO_V1(transport_prepare);
PG_FUNCTION_INFO_V1(transport_unbind);
PG_FUNCTION_INFO_V1(transport_delete);
PG_FUNCTION_INFO_V1(transport_subscribe);
PG_FUNCTION_INFO_V1(transport_unsubscribe);
PG_FUNCTION_INFO_V1(transport_acknowledge);
PG_FUNCTION_INFO_V1(transport_read_mark);
PG_FUNCTION_INFO_V1(transport_write_mark);
PG_FUNCTION_INFO_V1(transport_next);
PG_FUNCTION_INFO_V1(transport_memory);

#define CONNECTIONS 4
#define MARK_SIZE	64

/* The transport of the last connection that was made. */
static const CqrsTransport *transport;
static CqrsConnection *connections[CONNECTIONS];
static MemoryContext deliveries;

/* Only workers connect (I15), and an Assert in socket.c looks. */
static BackgroundWorker worker;

static CqrsConnection *
connection_of(int number)
{
	if (number < 0 || number >= CONNECTIONS || connections[number] == NULL)
		elog(ERROR, "no connection %d", number);
	return connections[number];
}

static Datum
outcome(bool done, const CqrsFailure *failure)
{
	static const char *const blames[] = {
		"transport", "route", "message", "lease"
	};

	PG_RETURN_TEXT_P(cstring_to_text(done ? "ok" :
									 psprintf("%s: %s", blames[failure->blame],
											  failure->reason)));
}

static List *
list_of(ArrayType *array)
{
	Datum	   *elements;
	int			count;
	List	   *list = NIL;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL,
					  &count);
	for (int i = 0; i < count; i++)
		list = lappend(list, TextDatumGetCString(elements[i]));
	return list;
}

/*
 * transport_connect(number int, url text, consumes bool, lease text,
 *					 vacant text[], max_delivery int, timeout_ms int,
 *					 heartbeat_s int)
 */
Datum
transport_connect(PG_FUNCTION_ARGS)
{
	int			number = PG_GETARG_INT32(0);
	char	   *lease = text_to_cstring(PG_GETARG_TEXT_PP(3));
	CqrsUrl		url;
	const char *reason;
	CqrsFailure failure;
	CqrsConnectOptions options = {
		.url = &url,
		.name = "test",
		.consumes = PG_GETARG_BOOL(2),
		.lease = lease[0] != '\0' ? lease : NULL,
		.vacant = list_of(PG_GETARG_ARRAYTYPE_P(4)),
		.heartbeat_s = PG_GETARG_INT32(7),
		.connect_timeout_ms = PG_GETARG_INT32(6),
		.max_delivery = PG_GETARG_INT32(5)
	};

	MyBgworkerEntry = &worker;
	if (deliveries == NULL)
		deliveries = AllocSetContextCreate(TopMemoryContext, "deliveries",
										   ALLOCSET_DEFAULT_SIZES);
	options.deliveries = deliveries;
	transport = cqrs_transport_of(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	if (!cqrs_url_parse(text_to_cstring(PG_GETARG_TEXT_PP(1)), 0, &url,
						&reason))
		elog(ERROR, "%s", reason);
	connections[number] = transport->connect(&options, &failure);
	return outcome(connections[number] != NULL, &failure);
}

/* transport_close(number int, politely bool) */
Datum
transport_close(PG_FUNCTION_ARGS)
{
	transport->close(connection_of(PG_GETARG_INT32(0)), PG_GETARG_BOOL(1));
	connections[PG_GETARG_INT32(0)] = NULL;
	return outcome(true, NULL);
}

/* transport_publish(number int, key text, id text, body text) */
Datum
transport_publish(PG_FUNCTION_ARGS)
{
	CqrsConnection *connection = connection_of(PG_GETARG_INT32(0));
	CqrsEnvelope envelope = {
		.exchange = "cqrs",
		.routing_key = text_to_cstring(PG_GETARG_TEXT_PP(1)),
		.message_id = text_to_cstring(PG_GETARG_TEXT_PP(2)),
		.timestamp = GetCurrentTimestamp(),
		.body = MemoryContextStrdup(TopMemoryContext,
									text_to_cstring(PG_GETARG_TEXT_PP(3)))
	};

	envelope.body_length = strlen(envelope.body);
	while (!transport->can_publish(connection))
	{
		bool		write;
		pgsocket	sock = transport->socket(connection, &write);

		(void) WaitLatchOrSocket(MyLatch,
								 WL_SOCKET_WRITEABLE | WL_LATCH_SET |
								 WL_EXIT_ON_PM_DEATH, sock, 0,
								 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	transport->publish(connection, &envelope);
	return outcome(true, NULL);
}

/* A queue of the arguments (number, queue, bindings as "exchange key"). */
static CqrsQueue
queue_of(FunctionCallInfo fcinfo, bool quorum)
{
	CqrsQueue	queue = {
		.name = text_to_cstring(PG_GETARG_TEXT_PP(1)),
		.quorum = quorum
	};
	ListCell   *lc;

	foreach(lc, list_of(PG_GETARG_ARRAYTYPE_P(2)))
	{
		char	   *text = lfirst(lc);
		CqrsBinding *binding = palloc(sizeof(CqrsBinding));
		char	   *blank = strchr(text, ' ');

		*blank = '\0';
		binding->exchange = text;
		binding->routing_key = blank + 1;
		queue.bindings = lappend(queue.bindings, binding);
	}
	return queue;
}

/* transport_prepare(number int, queue text, bindings text[], quorum bool) */
Datum
transport_prepare(PG_FUNCTION_ARGS)
{
	CqrsQueue	queue = queue_of(fcinfo, PG_GETARG_BOOL(3));
	CqrsFailure failure;

	return outcome(transport->prepare_queue(connection_of(PG_GETARG_INT32(0)),
											&queue, &failure), &failure);
}

/* transport_unbind(number int, queue text, bindings text[]) */
Datum
transport_unbind(PG_FUNCTION_ARGS)
{
	CqrsQueue	queue = queue_of(fcinfo, false);
	CqrsFailure failure;

	return outcome(transport->unbind(connection_of(PG_GETARG_INT32(0)), &queue,
									 &failure), &failure);
}

/* transport_delete(number int, queue text) */
Datum
transport_delete(PG_FUNCTION_ARGS)
{
	CqrsFailure failure;

	return outcome(transport->delete_queue(connection_of(PG_GETARG_INT32(0)),
										   text_to_cstring(PG_GETARG_TEXT_PP(1)),
										   &failure), &failure);
}

/* transport_subscribe(number int, queue text, "window" int) */
Datum
transport_subscribe(PG_FUNCTION_ARGS)
{
	transport->subscribe(connection_of(PG_GETARG_INT32(0)),
						 text_to_cstring(PG_GETARG_TEXT_PP(1)), PG_GETARG_INT32(2));
	return outcome(true, NULL);
}

/* transport_unsubscribe(number int) */
Datum
transport_unsubscribe(PG_FUNCTION_ARGS)
{
	transport->unsubscribe(connection_of(PG_GETARG_INT32(0)));
	return outcome(true, NULL);
}

/* transport_acknowledge(number int, tag int) */
Datum
transport_acknowledge(PG_FUNCTION_ARGS)
{
	transport->acknowledge(connection_of(PG_GETARG_INT32(0)), PG_GETARG_INT32(1));
	return outcome(true, NULL);
}

/* transport_read_mark(number int, name text): the text in brackets */
Datum
transport_read_mark(PG_FUNCTION_ARGS)
{
	char		mark[MARK_SIZE];
	CqrsFailure failure;

	if (!transport->read_mark(connection_of(PG_GETARG_INT32(0)),
							  text_to_cstring(PG_GETARG_TEXT_PP(1)), mark,
							  sizeof(mark), &failure))
		return outcome(false, &failure);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("[%s]", mark)));
}

/* transport_write_mark(number int, name text, mark text) */
Datum
transport_write_mark(PG_FUNCTION_ARGS)
{
	CqrsFailure failure;

	return outcome(transport->write_mark(connection_of(PG_GETARG_INT32(0)),
										 text_to_cstring(PG_GETARG_TEXT_PP(1)),
										 text_to_cstring(PG_GETARG_TEXT_PP(2)),
										 &failure), &failure);
}

/* "delivery TAG COUNT [redelivered] KEY ID LENGTH BODY", and free it */
static char *
describe_delivery(CqrsDelivery *delivery)
{
	char		key[256];
	char	   *text;

	/* The bytes of the key can be no text of the database. */
	cqrs_failure_clean(key, sizeof(key), delivery->routing_key,
					   strlen(delivery->routing_key));
	text = psprintf("delivery " UINT64_FORMAT " " INT64_FORMAT "%s %s %s %zu %.20s",
					delivery->tag, delivery->delivery_count,
					delivery->redelivered ? " redelivered" : "", key,
					delivery->message_id != NULL ? delivery->message_id : "-",
					delivery->length, delivery->body);

	/* Every byte counts for a tool that watches memory. */
	if (strlen(delivery->body) != delivery->length)
		text = psprintf("%s (with zeros)", text);
	pfree(delivery);
	return text;
}

static char *
describe(CqrsEvent *event, const CqrsFailure *failure)
{
	switch (event->kind)
	{
		case CQRS_EVENT_NONE:
			return "nothing";
		case CQRS_EVENT_FAILED:
			return TextDatumGetCString(outcome(false, failure));
		case CQRS_EVENT_ACK:
			return psprintf("ack " UINT64_FORMAT, event->tag);
		case CQRS_EVENT_RETURNED:
			return psprintf("returned %s", event->detail);
		case CQRS_EVENT_BLOCKED:
			return psprintf("blocked: %s", event->detail);
		case CQRS_EVENT_SUBSCRIBED:
			return "subscribed";
		case CQRS_EVENT_DELIVERY:
			return describe_delivery(event->delivery);
		case CQRS_EVENT_CANCELLED:
			return psprintf("cancelled: %s", event->detail);
		default:
			return psprintf("event %d", event->kind);
	}
}

/*
 * transport_next(number int, timeout_ms int): the next event, "nothing" if the
 * time passes without one
 */
Datum
transport_next(PG_FUNCTION_ARGS)
{
	CqrsConnection *connection = connection_of(PG_GETARG_INT32(0));
	TimestampTz deadline =
	TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
								PG_GETARG_INT32(1));
	CqrsEvent	event;
	CqrsFailure failure;

	for (;;)
	{
		bool		write;
		long		wait_ms;
		long		left_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
															  deadline);

		transport->poll(connection, &event, &failure);
		if (event.kind != CQRS_EVENT_NONE || left_ms == 0)
			break;
		wait_ms = transport->wait_ms(connection);
		if (wait_ms == 0)
			continue;
		wait_ms = wait_ms < 0 ? left_ms : Min(wait_ms, left_ms);
		(void) WaitLatchOrSocket(MyLatch,
								 WL_LATCH_SET | WL_SOCKET_READABLE |
								 WL_TIMEOUT | WL_EXIT_ON_PM_DEATH |
								 (transport->socket(connection, &write), write ?
								  WL_SOCKET_WRITEABLE : 0),
								 transport->socket(connection, &write), wait_ms,
								 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	PG_RETURN_TEXT_P(cstring_to_text(describe(&event, &failure)));
}

/* transport_memory(): bytes of the deliveries that nobody has freed */
Datum
transport_memory(PG_FUNCTION_ARGS)
{
	MemoryContextCounters counters = {0};

	deliveries->methods->stats(deliveries, NULL, NULL, &counters, false);
	PG_RETURN_INT64(counters.totalspace - counters.freespace);
}
