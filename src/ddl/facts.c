/*-------------------------------------------------------------------------
 *
 * facts.c
 *	  Facts about a table, as the system catalogs have them.
 *
 * Facts are read without a lock on the table: the guarded command takes the
 * locks that it needs, and must not wait for others.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/syscache.h"

#include "base/hypertable.h"
#include "ddl/facts.h"

static void read_key(CqrsTableFacts *facts);
static Oid	access_method(Oid relid);
static List *read_triggers(Oid relid);

CqrsTableFacts *
cqrs_facts_table(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Form_pg_class class;
	CqrsTableFacts *facts;

	if (!HeapTupleIsValid(tuple))
		return NULL;

	class = (Form_pg_class) GETSTRUCT(tuple);
	facts = palloc0(sizeof(CqrsTableFacts));
	facts->relid = relid;
	facts->name = pstrdup(NameStr(class->relname));
	facts->schema = class->relnamespace;
	facts->kind = class->relkind;
	facts->persistence = class->relpersistence;
	facts->is_partition = class->relispartition;
	facts->forces_security = class->relrowsecurity &&
		class->relforcerowsecurity;
	facts->access_method = class->relam;
	facts->is_hypertable = cqrs_hypertable_is(relid);
	facts->inherits = has_superclass(relid) ||
		(class->relhassubclass && class->relkind != RELKIND_PARTITIONED_TABLE &&
		 !facts->is_hypertable &&
		 find_inheritance_children(relid, NoLock) != NIL);
	facts->ncolumns = class->relnatts;
	ReleaseSysCache(tuple);

	facts->columns = palloc0(sizeof(CqrsColumnFacts) * facts->ncolumns);
	for (int i = 0; i < facts->ncolumns; i++)
	{
		CqrsColumnFacts *column = &facts->columns[i];
		Form_pg_attribute attribute;

		tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid),
								Int16GetDatum(i + 1));
		if (!HeapTupleIsValid(tuple))
			continue;
		attribute = (Form_pg_attribute) GETSTRUCT(tuple);
		if (!attribute->attisdropped)
		{
			column->name = pstrdup(NameStr(attribute->attname));
			column->type = attribute->atttypid;
			column->typmod = attribute->atttypmod;
			column->not_null = attribute->attnotnull;
			column->has_default = attribute->atthasdef;
			column->is_generated = attribute->attgenerated != '\0';
			column->is_identity = attribute->attidentity != '\0';
		}
		ReleaseSysCache(tuple);
	}
	read_key(facts);
	facts->triggers = read_triggers(relid);
	return facts;
}

/* Read the primary key; without a valid one nothing is set. */
static void
read_key(CqrsTableFacts *facts)
{
	Relation	catalog = table_open(IndexRelationId, AccessShareLock);
	ScanKeyData scankey;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&scankey, Anum_pg_index_indrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(facts->relid));
	scan = systable_beginscan(catalog, IndexIndrelidIndexId, true, NULL, 1,
							  &scankey);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_index index = (Form_pg_index) GETSTRUCT(tuple);

		if (!index->indisprimary || !index->indisvalid)
			continue;
		facts->key_index = index->indexrelid;
		facts->key_method = access_method(index->indexrelid);
		for (int i = 0; i < index->indnkeyatts; i++)
			facts->key = lappend_int(facts->key, index->indkey.values[i]);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
}

/* The access method of a relation; InvalidOid if the relation is gone. */
static Oid
access_method(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			result;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	result = ((Form_pg_class) GETSTRUCT(tuple))->relam;
	ReleaseSysCache(tuple);
	return result;
}

/* All triggers of a table, internal ones included, as CqrsTriggerFacts. */
static List *
read_triggers(Oid relid)
{
	Relation	catalog = table_open(TriggerRelationId, AccessShareLock);
	List	   *triggers = NIL;
	ScanKeyData scankey;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&scankey, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, TriggerRelidNameIndexId, true, NULL, 1,
							  &scankey);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);
		CqrsTriggerFacts *facts = palloc(sizeof(CqrsTriggerFacts));

		facts->name = pstrdup(NameStr(trigger->tgname));
		facts->function = trigger->tgfoid;
		facts->enabled = trigger->tgenabled != TRIGGER_DISABLED;
		triggers = lappend(triggers, facts);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return triggers;
}

const CqrsTriggerFacts *
cqrs_facts_trigger(const CqrsTableFacts *facts, const char *name)
{
	static const CqrsTriggerFacts none = {0};
	ListCell   *lc;

	foreach(lc, facts->triggers)
	{
		const CqrsTriggerFacts *trigger = lfirst(lc);

		if (strcmp(trigger->name, name) == 0)
			return trigger;
	}
	return &none;
}
