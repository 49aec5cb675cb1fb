/*-------------------------------------------------------------------------
 *
 * replica.c
 *	  The rows of cqrs.replica, and the backend's cache of them.
 *
 * Rows are read and written directly, as in system catalogs, so that no
 * privileges on cqrs.replica are needed or granted: callers (registration.c)
 * have checked what the user may do.  A caller that writes holds a lock on the
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
#include "define/function.h"
#include "define/option.h"
#include "replica/handler.h"
#include "replica/replica.h"
#include "worker/wake.h"

/* Columns of cqrs.replica; the options follow in their order. */
enum
{
	REPLICA_CQRS_ID = 1,
	REPLICA_RELATION,
	REPLICA_FIRST_OPTION,
	REPLICA_NATTS = REPLICA_FIRST_OPTION + CQRS_REPLICA_NOPTIONS - 1
};

StaticAssertDecl(REPLICA_NATTS == CQRS_REPLICA_NATTS,
				 "cqrs.replica has as many columns as objects.h says");

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

static Cache cache;
static bool cache_valid = false;
static uint64 changes = 0;		/* what invalidations have changed */

static void watch(void);
static void invalidate(Datum arg, Oid relid);
static void build(void);
static void fill(Cache *fresh);
static void describe(const CqrsReplicaRow *row, CqrsReplica *replica);
static int	compare_name(const void *name, const void *replica);
static HeapTuple find_tuple(Relation table, const char *cqrs_id);
static CqrsReplicaRow *row_from_tuple(Relation table, HeapTuple tuple);
static HeapTuple tuple_from_row(Relation table, const CqrsReplicaRow *row);
static int	compare_cqrs_id(const ListCell *a, const ListCell *b);
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

static void
describe(const CqrsReplicaRow *row, CqrsReplica *replica)
{
	char	   *on_expired = cqrs_replica_text(row, CQRS_REPLICA_ON_EXPIRED);

	replica->cqrs_id = row->cqrs_id;
	replica->relid = row->relid;
	replica->owner = cqrs_replica_owner(row);
	replica->handler = cqrs_replica_text(row, CQRS_REPLICA_HANDLER);
	replica->retry = cqrs_replica_text(row, CQRS_REPLICA_RETRY);
	replica->max_retries = cqrs_replica_int(row, CQRS_REPLICA_MAX_RETRIES);
	replica->retry_delay_ms =
		cqrs_option_ms(row->options[CQRS_REPLICA_RETRY_DELAY].value);
	replica->only_direct_syncs =
		DatumGetBool(row->options[CQRS_REPLICA_ONLY_DIRECT_SYNCS].value);
	replica->apply_expired = strcmp(on_expired, "apply") == 0;
	replica->exchange = cqrs_replica_text(row, CQRS_REPLICA_EXCHANGE);
	replica->routing_key = cqrs_replica_text(row, CQRS_REPLICA_ROUTING_KEY);
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
	Relation	table = table_open(cqrs_objects_get(false)->replica,
								   AccessShareLock);
	HeapTuple	tuple = find_tuple(table, cqrs_id);
	CqrsReplicaRow *row = NULL;

	if (HeapTupleIsValid(tuple))
		row = row_from_tuple(table, tuple);
	table_close(table, AccessShareLock);
	return row;
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
		rows = lappend(rows, row_from_tuple(table, tuple));
	systable_endscan(scan);
	table_close(table, AccessShareLock);

	list_sort(rows, compare_cqrs_id);
	return rows;
}

void
cqrs_replica_insert(const CqrsReplicaRow *row)
{
	Relation	table = table_open(cqrs_objects_get(false)->replica,
								   RowExclusiveLock);

	CatalogTupleInsert(table, tuple_from_row(table, row));
	table_close(table, RowExclusiveLock);
	announce();
}

void
cqrs_replica_update(const CqrsReplicaRow *row)
{
	Relation	table = table_open(cqrs_objects_get(false)->replica,
								   RowExclusiveLock);
	HeapTuple	old = find_tuple(table, row->cqrs_id);

	if (!HeapTupleIsValid(old))
		elog(ERROR, "replica \"%s\" has disappeared", row->cqrs_id);
	CatalogTupleUpdate(table, &old->t_self, tuple_from_row(table, row));
	table_close(table, RowExclusiveLock);
	announce();
}

void
cqrs_replica_delete(const char *cqrs_id)
{
	Relation	table = table_open(cqrs_objects_get(false)->replica,
								   RowExclusiveLock);
	HeapTuple	old = find_tuple(table, cqrs_id);

	if (!HeapTupleIsValid(old))
		elog(ERROR, "replica \"%s\" has disappeared", cqrs_id);
	CatalogTupleDelete(table, &old->t_self);
	table_close(table, RowExclusiveLock);
	announce();
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

/* A copy of the row with that name, or NULL. */
static HeapTuple
find_tuple(Relation table, const char *cqrs_id)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyEntryInitialize(&key, 0, REPLICA_CQRS_ID, BTEqualStrategyNumber,
						   InvalidOid, C_COLLATION_OID, F_TEXTEQ,
						   CStringGetTextDatum(cqrs_id));
	scan = systable_beginscan(table, cqrs_objects_get(false)->replica_by_id,
							  true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	return tuple;
}

static CqrsReplicaRow *
row_from_tuple(Relation table, HeapTuple tuple)
{
	CqrsReplicaRow *row = palloc0(sizeof(CqrsReplicaRow));
	TupleDesc	desc = RelationGetDescr(table);
	Datum		values[REPLICA_NATTS];
	bool		nulls[REPLICA_NATTS];

	heap_deform_tuple(tuple, desc, values, nulls);
	row->cqrs_id = TextDatumGetCString(values[REPLICA_CQRS_ID - 1]);
	if (!nulls[REPLICA_RELATION - 1])
		row->relid = DatumGetObjectId(values[REPLICA_RELATION - 1]);
	for (int i = 0; i < CQRS_REPLICA_NOPTIONS; i++)
	{
		int			att = REPLICA_FIRST_OPTION - 1 + i;
		Form_pg_attribute form = TupleDescAttr(desc, att);

		row->options[i].isnull = nulls[att];
		if (nulls[att])
			continue;
		row->options[i].value = form->attlen == -1 ?
			PointerGetDatum(PG_DETOAST_DATUM_COPY(values[att])) :
			datumCopy(values[att], form->attbyval, form->attlen);
	}
	return row;
}

static HeapTuple
tuple_from_row(Relation table, const CqrsReplicaRow *row)
{
	Datum		values[REPLICA_NATTS] = {0};
	bool		nulls[REPLICA_NATTS] = {false};

	values[REPLICA_CQRS_ID - 1] = CStringGetTextDatum(row->cqrs_id);
	values[REPLICA_RELATION - 1] = ObjectIdGetDatum(row->relid);
	nulls[REPLICA_RELATION - 1] = !OidIsValid(row->relid);
	for (int i = 0; i < CQRS_REPLICA_NOPTIONS; i++)
	{
		values[REPLICA_FIRST_OPTION - 1 + i] = row->options[i].value;
		nulls[REPLICA_FIRST_OPTION - 1 + i] = row->options[i].isnull;
	}
	return heap_form_tuple(RelationGetDescr(table), values, nulls);
}

char *
cqrs_replica_text(const CqrsReplicaRow *row, CqrsReplicaOption option)
{
	return row->options[option].isnull ? NULL :
		TextDatumGetCString(row->options[option].value);
}

List *
cqrs_replica_names(const CqrsReplicaRow *row, CqrsReplicaOption option)
{
	return row->options[option].isnull ? NIL :
		cqrs_option_text_list(row->options[option].value);
}

int
cqrs_replica_int(const CqrsReplicaRow *row, CqrsReplicaOption option)
{
	return row->options[option].isnull ? -1 :
		DatumGetInt32(row->options[option].value);
}

static int
compare_cqrs_id(const ListCell *a, const ListCell *b)
{
	return strcmp(((CqrsReplicaRow *) lfirst(a))->cqrs_id,
				  ((CqrsReplicaRow *) lfirst(b))->cqrs_id);
}
