/*-------------------------------------------------------------------------
 *
 * replica.c
 *	  The options of replicas, the rows of cqrs.replica, and the backend's cache
 *	  of them.
 *
 * Callers (registration.c) have checked what the user may do.  A caller that writes holds a lock on the
 * replica's table, if it has one, that conflicts with writers.  If two sessions
 * use the same name or table, the unique indexes decide.
 *
 * The cache has all replicas.  Names come from the broker: one that is not
 * found leaves nothing behind.  Whoever writes to cqrs.replica sends an
 * invalidation of its relcache entry, which no table but a system catalog gets
 * by itself.  An invalidation of a replica's table counts as well, because of
 * the owner and the columns.  The cache is built anew by the next
 * cqrs_replica_find(); its old contents live on until the end of the
 * transaction, since a caller further up the stack may still hold them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/objects.h"
#include "define/definition.h"
#include "define/function.h"
#include "define/name.h"
#include "replica/handler.h"
#include "replica/replica.h"
#include "worker/wake.h"

StaticAssertDecl(offsetof(CqrsReplicaRow, options) ==
				 offsetof(CqrsDefinition, options),
				 "a CqrsReplicaRow is a CqrsDefinition");

/* All replicas, ordered by cqrs_id. */
typedef struct Cache
{
	MemoryContext context;		/* NULL: never built */
	Oid			table;			/* cqrs.replica */
	uint64		functions;		/* what cqrs_function_generation() was */
	int			nreplicas;
	CqrsReplica *replicas;
} Cache;

PG_FUNCTION_INFO_V1(cqrs_trigger_replica_changed);

static void check_fields(const char *name, Datum value);

#define FIELD(name) CQRS_FIELD(CqrsReplica, name)
#define CQRS_OPTION(symbol, ...) [symbol] = {__VA_ARGS__},

static const CqrsOptionInfo infos[] = {
#include "replica/replica_option_list.h"
};

const CqrsOptionTable cqrs_replica_options = {
	infos, CQRS_REPLICA_NOPTIONS,
	"Options are the arguments of cqrs_register_replica() after the second.",
	"{\"max_retries\": 5, \"handler\": null}"
};

static Cache cache;
static bool cache_valid = false;
static uint64 changes = 0;		/* what invalidations have changed */

static void watch(void);
static void invalidate(Datum arg, Oid relid);
static void build(void);
static void fill(Cache *fresh);
static void describe(const CqrsReplicaRow *row, CqrsReplica *replica);
static int	compare_name(const void *name, const void *replica);
static CqrsDefinitionKind kind_of_replicas(void);
static void announce(void);

const CqrsReplica *
cqrs_replica_find(const char *cqrs_id)
{
	watch();
	if (!cache_valid || cache.functions != cqrs_function_generation())
		build();
	if (cache.nreplicas == 0)
		return NULL;
	return bsearch(cqrs_id, cache.replicas, cache.nreplicas,
				   sizeof(CqrsReplica), compare_name);
}

uint64
cqrs_replica_generation(void)
{
	watch();
	return changes + cqrs_function_generation();
}

/* Have invalidations noticed, from the first call on. */
static void
watch(void)
{
	static bool watching = false;

	if (!watching)
		CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
	watching = true;
}

/* Relcache callback, which must not free or look up anything. */
static void
invalidate(Datum arg, Oid relid)
{
	bool		concerns = !OidIsValid(relid) || relid == cache.table;

	for (int i = 0; i < cache.nreplicas && !concerns; i++)
		concerns = cache.replicas[i].relid == relid;
	if (!concerns)
		return;
	cache_valid = false;
	changes++;
}

/*
 * An error leaves the cache as it was, and invalid.  Without the extension,
 * nobody announces that it has been created: the cache stays invalid, too.
 */
static void
build(void)
{
	Cache		fresh = {0};
	bool		installed = cqrs_objects_get(true) != NULL;

	fresh.context = AllocSetContextCreate(CurrentMemoryContext,
										  "cqrs replicas",
										  ALLOCSET_SMALL_SIZES);
	fresh.functions = cqrs_function_generation();
	/* An invalidation that arrives meanwhile resets this. */
	cache_valid = installed;
	if (installed)
	{
		cache.table = fresh.table = cqrs_objects_get(false)->replica;
		PG_TRY();
		{
			fill(&fresh);
		}
		PG_CATCH();
		{
			cache_valid = false;
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	if (cache.context != NULL)
		MemoryContextSetParent(cache.context, TopTransactionContext);
	MemoryContextSetParent(fresh.context, TopMemoryContext);
	cache = fresh;
}

/* Read all replicas into a cache, and into its context. */
static void
fill(Cache *fresh)
{
	MemoryContext caller = MemoryContextSwitchTo(fresh->context);
	List	   *rows = cqrs_replica_read_all();
	ListCell   *lc;

	fresh->replicas = palloc0(sizeof(CqrsReplica) * (list_length(rows) + 1));
	foreach(lc, rows)
	{
		const CqrsReplicaRow *row = lfirst(lc);

		/* The event trigger that removes the row may be disabled. */
		if (OidIsValid(row->relid) &&
			!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(row->relid)))
			continue;
		describe(row, &fresh->replicas[fresh->nreplicas++]);
	}
	MemoryContextSwitchTo(caller);
}

/* Make a replica of its row, which it points to.  In the current context. */
static void
describe(const CqrsReplicaRow *row, CqrsReplica *replica)
{
	replica->cqrs_id = row->cqrs_id;
	replica->relid = row->relid;
	replica->owner = cqrs_replica_owner(row);
	cqrs_option_fill(&cqrs_replica_options, row->options, replica);
	replica->row = row;
}

static int
compare_name(const void *name, const void *replica)
{
	return strcmp(name, ((const CqrsReplica *) replica)->cqrs_id);
}

Oid
cqrs_replica_owner(const CqrsReplicaRow *row)
{
	char	   *handler;
	HeapTuple	tuple;
	Oid			owner;

	if (!OidIsValid(row->relid))
	{
		handler = cqrs_replica_text(row, CQRS_REPLICA_HANDLER);
		return handler == NULL ? InvalidOid :
			cqrs_function_owner(handler, cqrs_handler_kind());
	}
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(row->relid));
	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

CqrsReplicaRow *
cqrs_replica_read(const char *cqrs_id)
{
	CqrsDefinitionKind kind = kind_of_replicas();

	return cqrs_definition_read(&kind, cqrs_id);
}

List *
cqrs_replica_read_all(void)
{
	const CqrsObjects *objects = cqrs_objects_get(true);
	Relation	table;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *rows = NIL;

	if (objects == NULL)
		return NIL;
	table = table_open(objects->replica, AccessShareLock);
	scan = systable_beginscan(table, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		rows = lappend(rows, cqrs_definition_from_tuple(table, tuple,
														CQRS_REPLICA_NOPTIONS));
	systable_endscan(scan);
	table_close(table, AccessShareLock);

	cqrs_definition_sort(rows);
	return rows;
}

void
cqrs_replica_insert(const CqrsReplicaRow *row)
{
	CqrsDefinitionKind kind = kind_of_replicas();

	cqrs_definition_insert(&kind, row);
	announce();
}

void
cqrs_replica_update(const CqrsReplicaRow *row)
{
	CqrsDefinitionKind kind = kind_of_replicas();

	cqrs_definition_update(&kind, row);
	announce();
}

void
cqrs_replica_delete(const char *cqrs_id)
{
	CqrsDefinitionKind kind = kind_of_replicas();

	cqrs_definition_delete(&kind, cqrs_id);
	announce();
}

/* What define/definition.c needs to know of cqrs.replica. */
static CqrsDefinitionKind
kind_of_replicas(void)
{
	const CqrsObjects *objects = cqrs_objects_get(false);
	CqrsDefinitionKind kind = {
		objects->replica, &objects->replica_by_id, CQRS_REPLICA_NOPTIONS
	};

	return kind;
}

/* Trigger of cqrs.replica, for those who write to it with SQL. */
Datum
cqrs_trigger_replica_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by trigger manager",
						"cqrs.trigger_replica_changed")));
	if (cqrs_objects_get(true) != NULL)
		announce();
	return PointerGetDatum(NULL);
}

/* At commit, other sessions and the consumer learn of a change. */
static void
announce(void)
{
	CacheInvalidateRelcacheByRelid(cqrs_objects_get(false)->replica);
	CommandCounterIncrement();
	cqrs_wake_want_at_commit(CQRS_WORKER_CONSUMER);
}

char *
cqrs_replica_text(const CqrsReplicaRow *row, CqrsReplicaOption option)
{
	return cqrs_option_text(row->options[option]);
}

List *
cqrs_replica_names(const CqrsReplicaRow *row, CqrsReplicaOption option)
{
	return cqrs_option_names(row->options[option]);
}

/*
 * Whether an option fits the table is checked when the replica is bound to it
 * (mapping.c).
 */
static void
check_fields(const char *name, Datum value)
{
	if (cqrs_option_text_list(value) == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must not be empty", name),
				 errdetail("A replica needs the primary key, at least."),
				 errhint("Use NULL for all columns.")));
}
