/*-------------------------------------------------------------------------
 *
 * topology.c
 *	  The queue of the consumer and its bindings.
 *
 * For each replica the queue has two bindings, as django-cqrs makes them: to
 * its routing key, for broadcasts, and to "cqrs.QUEUE.CQRS_ID", for messages
 * to this queue alone.  Bindings of replicas that are gone are removed, if
 * this process has made them; other bindings lead to messages that are counted
 * as unknown.  If cqrs.exchange has changed, bindings to the former exchange
 * stay, because publishers may not have noticed the change yet.
 *
 * The bindings of each exchange are made by a request of its own, so that an
 * exchange that is refused costs the others nothing.
 *
 * Lives in TopMemoryContext, the lists in a context of their own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/guc.h"
#include "base/limits.h"
#include "base/timing.h"
#include "consume/topology.h"
#include "replica/replica.h"
#include "worker/worker.h"

/* An exchange that was refused is tried again after this time. */
#define RETRY_INTERVAL_MS	60000

struct CqrsTopology
{
	CqrsIntakeLog *log;
	char	   *queue;			/* in UTF-8; NULL: not set */
	bool		quorum;
	MemoryContext context;		/* of the next two lists */
	List	   *wanted;			/* CqrsBinding */
	List	   *made;			/* those of an earlier "wanted" */
	bool		due;
	bool		refused;		/* an exchange was refused ... */
	TimestampTz refused_at;		/* ... at this time */
};

static void add_binding(List **bindings, const char *exchange,
						const char *routing_key);
static char *text_option(const CqrsReplicaRow *row, CqrsReplicaOption option);
static int	compare(const ListCell *a, const ListCell *b);
static bool has(List *bindings, const CqrsBinding *binding);
static List *with_new(List *bindings, List *others);
static List *copy(List *bindings);
static bool remove_old(CqrsTopology *topology, const CqrsTransport *transport,
					   CqrsConnection *connection, CqrsFailure *failure);
static bool make(CqrsTopology *topology, const CqrsTransport *transport,
				 CqrsConnection *connection, List *bindings,
				 CqrsFailure *failure);

CqrsTopology *
cqrs_topology_create(CqrsIntakeLog *log)
{
	CqrsTopology *topology = MemoryContextAllocZero(TopMemoryContext,
													sizeof(CqrsTopology));

	topology->log = log;
	topology->context = AllocSetContextCreate(TopMemoryContext,
											  "cqrs bindings",
											  ALLOCSET_SMALL_SIZES);
	return topology;
}

List *
cqrs_topology_read(const char *queue)
{
	List	   *bindings = NIL;
	ListCell   *lc;

	foreach(lc, cqrs_replica_read_all())
	{
		const CqrsReplicaRow *row = lfirst(lc);
		char	   *exchange = text_option(row, CQRS_REPLICA_EXCHANGE);
		char	   *routing_key = text_option(row, CQRS_REPLICA_ROUTING_KEY);

		if (exchange == NULL)
			exchange = cqrs_exchange;
		add_binding(&bindings, exchange,
					routing_key != NULL ? routing_key : row->cqrs_id);
		add_binding(&bindings, exchange,
					psprintf("cqrs.%s.%s", queue, row->cqrs_id));
	}
	list_sort(bindings, compare);
	return bindings;
}

/* Add a binding, in UTF-8. */
static void
add_binding(List **bindings, const char *exchange, const char *routing_key)
{
	CqrsBinding *binding = palloc(sizeof(CqrsBinding));

	binding->exchange = cqrs_topology_utf8(exchange);
	binding->routing_key = cqrs_topology_utf8(routing_key);
	/* No message can have a longer routing key. */
	if (strlen(binding->routing_key) <= CQRS_SHORTSTR_BYTES)
		*bindings = lappend(*bindings, binding);
}

static char *
text_option(const CqrsReplicaRow *row, CqrsReplicaOption option)
{
	return row->options[option].isnull ? NULL :
		TextDatumGetCString(row->options[option].value);
}

void
cqrs_topology_set(CqrsTopology *topology, const char *queue, bool quorum,
				  List *bindings)
{
	char	   *name = cqrs_topology_utf8(queue);
	bool		moved = topology->queue == NULL ||
	strcmp(topology->queue, name) != 0;
	MemoryContext context;
	MemoryContext caller;

	if (moved)
	{
		if (topology->queue != NULL)
			pfree(topology->queue);
		topology->queue = MemoryContextStrdup(TopMemoryContext, name);
	}
	topology->quorum = quorum;
	topology->due = true;

	context = AllocSetContextCreate(TopMemoryContext, "cqrs bindings",
									ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	topology->made = moved ? NIL : copy(with_new(topology->made,
												 topology->wanted));
	topology->wanted = copy(bindings);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(topology->context);
	topology->context = context;
}

void
cqrs_topology_connected(CqrsTopology *topology)
{
	topology->due = true;
}

void
cqrs_topology_retry(CqrsTopology *topology)
{
	topology->due = topology->due || topology->refused;
}

void
cqrs_topology_keep(CqrsTopology *topology)
{
	topology->made = topology->wanted = NIL;
}

bool
cqrs_topology_is_made(const CqrsTopology *topology)
{
	return !topology->due && !topology->refused;
}

bool
cqrs_topology_is_due(const CqrsTopology *topology)
{
	return cqrs_topology_wait_ms(topology) == 0;
}

long
cqrs_topology_wait_ms(const CqrsTopology *topology)
{
	if (topology->queue == NULL)
		return -1;
	if (topology->due)
		return 0;
	return topology->refused ?
		cqrs_until_after_ms(topology->refused_at, RETRY_INTERVAL_MS) : -1;
}

bool
cqrs_topology_apply(CqrsTopology *topology, const CqrsTransport *transport,
					CqrsConnection *connection, bool owner,
					CqrsFailure *failure)
{
	List	   *bindings = NIL;
	ListCell   *lc;

	topology->refused = false;
	topology->due = true;
	/* Without the queue nothing can be consumed, so a refusal is a failure. */
	if (!make(topology, transport, connection, NIL, failure) ||
		(owner && !remove_old(topology, transport, connection, failure)))
		return false;
	foreach(lc, topology->wanted)
	{
		const CqrsBinding *binding = lfirst(lc);
		ListCell   *next = lnext(topology->wanted, lc);

		bindings = lappend(bindings, lfirst(lc));
		if (next != NULL &&
			strcmp(((CqrsBinding *) lfirst(next))->exchange,
				   binding->exchange) == 0)
			continue;
		if (!make(topology, transport, connection, bindings, failure))
		{
			if (failure->blame != CQRS_BLAME_ROUTE)
				return false;
			topology->refused = true;
			topology->refused_at = GetCurrentTimestamp();
			cqrs_intake_log_refused(topology->log, binding->exchange,
									failure->reason);
		}
		bindings = NIL;
	}
	topology->due = false;
	return true;
}

/*
 * Declare the queue as it is to be, and bind it.  Returns false, with *failure
 * set, if the broker did not.
 */
static bool
make(CqrsTopology *topology, const CqrsTransport *transport,
	 CqrsConnection *connection, List *bindings, CqrsFailure *failure)
{
	CqrsQueue	queue = {
		.name = topology->queue,
		.quorum = topology->quorum,
		.bindings = bindings
	};

	return transport->prepare_queue(connection, &queue, failure);
}

/* Remove bindings that were made and are not wanted any more. */
static bool
remove_old(CqrsTopology *topology, const CqrsTransport *transport,
		   CqrsConnection *connection, CqrsFailure *failure)
{
	CqrsQueue	queue = {.name = topology->queue};
	ListCell   *lc;

	foreach(lc, topology->made)
	{
		if (!has(topology->wanted, lfirst(lc)))
			queue.bindings = lappend(queue.bindings, lfirst(lc));
	}
	if (queue.bindings != NIL &&
		!transport->unbind(connection, &queue, failure) &&
		failure->blame != CQRS_BLAME_ROUTE)
		return false;
	topology->made = NIL;
	return true;
}

bool
cqrs_topology_is_direct(const CqrsTopology *topology, const char *routing_key)
{
	static const char prefix[] = "cqrs.";
	size_t		length = strlen(topology->queue);

	if (strncmp(routing_key, prefix, sizeof(prefix) - 1) != 0)
		return false;
	routing_key += sizeof(prefix) - 1;
	return strncmp(routing_key, topology->queue, length) == 0 &&
		routing_key[length] == '.';
}

char *
cqrs_topology_utf8(const char *text)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		begins = !IsTransactionState();
	char	   *converted;

	/* A conversion is looked up in the catalog. */
	if (begins)
		StartTransactionCommand();
	converted = MemoryContextStrdup(caller,
									pg_server_to_any(text, strlen(text),
													 PG_UTF8));
	if (begins)
		CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return converted;
}

static int
compare(const ListCell *a, const ListCell *b)
{
	return strcmp(((CqrsBinding *) lfirst(a))->exchange,
				  ((CqrsBinding *) lfirst(b))->exchange);
}

/* Whether a binding, or its equal, is in the list. */
static bool
has(List *bindings, const CqrsBinding *binding)
{
	ListCell   *lc;

	foreach(lc, bindings)
	{
		const CqrsBinding *other = lfirst(lc);

		if (strcmp(other->exchange, binding->exchange) == 0 &&
			strcmp(other->routing_key, binding->routing_key) == 0)
			return true;
	}
	return false;
}

/* A list of bindings, and of others that are not among them. */
static List *
with_new(List *bindings, List *others)
{
	List	   *all = list_copy(bindings);
	ListCell   *lc;

	foreach(lc, others)
	{
		if (!has(all, lfirst(lc)))
			all = lappend(all, lfirst(lc));
	}
	return all;
}

/* In the current context, strings included. */
static List *
copy(List *bindings)
{
	List	   *copies = NIL;
	ListCell   *lc;

	foreach(lc, bindings)
	{
		const CqrsBinding *binding = lfirst(lc);
		CqrsBinding *new = palloc(sizeof(CqrsBinding));

		new->exchange = pstrdup(binding->exchange);
		new->routing_key = pstrdup(binding->routing_key);
		copies = lappend(copies, new);
	}
	return copies;
}
