/*-------------------------------------------------------------------------
 *
 * relation.c
 *	  The backend's cache of tables and their masters.
 *
 * Masters are rows of cqrs.master, which names columns and functions by their
 * names so that a dump restores them.  A backend keeps bound masters in a hash
 * table, by table.  A session that changes a master holds a lock on the
 * table that conflicts with writers, and sends an invalidation of the table's
 * relcache entry.  So the definition cannot change under a transaction that
 * has written to the table.
 *
 * An entry is rebuilt when it is looked up and found invalid.  Its old
 * contents live on until the end of the transaction, since a caller further up
 * the stack may still hold them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/index.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "base/hypertable.h"
#include "base/objects.h"
#include "master/fields.h"
#include "master/loaded.h"
#include "master/master.h"
#include "master/options.h"
#include "master/relation.h"

PG_FUNCTION_INFO_V1(cqrs_sql_relation);

static HTAB *relations = NULL;

static void make_cache(void);
static void invalidate(Datum arg, Oid relid);
static void describe(Relation rel, CqrsRelation *relation);
static void check_chunk(Relation rel);
static void check_hypertable(Relation root, const CqrsMasterRow *row);
static void check_not_child(Relation rel);
static CqrsMaster *resolve(Relation rel, Relation root,
						   const CqrsRelation *relation,
						   const CqrsMasterRow *row);
static void build_relation(CqrsRelation *entry);
static AttrNumber require_column(Relation rel, const char *name, Oid type);
static Oid	primary_key(Relation rel);

/* Register for invalidations, too, when first called. */
static void
make_cache(void)
{
	HASHCTL		ctl = {0};

	if (relations != NULL)
		return;

	CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(CqrsRelation);
	ctl.hcxt = TopMemoryContext;
	relations = hash_create("cqrs masters", 64, &ctl,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* cqrs_relation(cqrs_id text) RETURNS regclass */
Datum
cqrs_sql_relation(PG_FUNCTION_ARGS)
{
	char	   *cqrs_id = text_to_cstring(PG_GETARG_TEXT_PP(0));

	PG_RETURN_OID(cqrs_master_read(cqrs_id, false)->relid);
}

/*
 * get_partition_ancestors() does not return the parent of a partition that is
 * being detached.  Changes that a transaction has made there before the detach
 * must be published.
 */
Oid
cqrs_relation_root(Oid relid)
{
	Oid			hypertable;

	while (get_rel_relispartition(relid))
		relid = get_partition_parent(relid, true);
	hypertable = cqrs_hypertable_of_chunk(relid);
	return OidIsValid(hypertable) ? hypertable : relid;
}

bool
cqrs_relation_has_parts(Relation rel)
{
	const CqrsRelation *relation;

	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		return true;
	relation = cqrs_relation_get(RelationGetRelid(rel));
	return relation != NULL && relation->is_hypertable &&
		relation->relid == relation->root;
}

CqrsRelation *
cqrs_relation_get(Oid relid)
{
	static CqrsRelation *last = NULL;
	CqrsRelation *entry;
	bool		found;

	make_cache();
	if (last != NULL && last->relid == relid && last->valid)
		return last->masters != NIL ? last : NULL;

	entry = hash_search(relations, &relid, HASH_ENTER, &found);
	if (!found)
	{
		entry->valid = false;
		entry->root = InvalidOid;
		entry->context = NULL;
	}
	if (!entry->valid)
		build_relation(entry);

	last = entry;
	return entry->masters != NIL ? entry : NULL;
}

CqrsMaster *
cqrs_relation_master(const char *cqrs_id, CqrsRelation **relation)
{
	Oid			relid = cqrs_master_read(cqrs_id, false)->relid;
	CqrsRelation *entry = cqrs_relation_get(relid);
	ListCell   *lc;

	if (entry != NULL)
	{
		foreach(lc, entry->masters)
		{
			CqrsMaster *master = lfirst(lc);

			if (strcmp(master->cqrs_id, cqrs_id) == 0)
			{
				*relation = entry;
				return master;
			}
		}
	}
	elog(ERROR, "master \"%s\" is not in the cache of relation %u",
		 cqrs_id, relid);
}

Relation
cqrs_relation_open(const char *cqrs_id, LOCKMODE lock, CqrsRelation **relation,
				   CqrsMaster **master)
{
	Oid			relid = cqrs_master_read(cqrs_id, false)->relid;
	Relation	rel = table_open(relid, lock);

	*master = cqrs_relation_master(cqrs_id, relation);
	if ((*relation)->relid != relid)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("master \"%s\" was changed concurrently", cqrs_id),
				 errdetail("The master belongs to another table now."),
				 errhint("Call the function again.")));
	return rel;
}

void
cqrs_relation_bind(Relation rel, List *rows, CqrsRelation *relation)
{
	Relation	root = table_open(cqrs_relation_root(RelationGetRelid(rel)), AccessShareLock);
	ListCell   *lc;

	relation->root = RelationGetRelid(root);
	relation->owner = root->rd_rel->relowner;
	relation->is_hypertable = cqrs_hypertable_is(RelationGetRelid(root));
	relation->root_desc = CreateTupleDescCopyConstr(RelationGetDescr(root));
	relation->to_root =
		convert_tuples_by_name(CreateTupleDescCopyConstr(RelationGetDescr(rel)),
							   relation->root_desc);
	if (relation->is_hypertable)
		check_chunk(rel);
	describe(rel, relation);
	foreach(lc, rows)
	{
		if (relation->is_hypertable)
			check_hypertable(root, lfirst(lc));
		relation->masters = lappend(relation->masters,
									resolve(rel, root, relation, lfirst(lc)));
	}
	table_close(root, AccessShareLock);
}

/* Relcache callback, which must not free or look up anything. */
static void
invalidate(Datum arg, Oid relid)
{
	CqrsRelation *entry;
	HASH_SEQ_STATUS status;

	hash_seq_init(&status, relations);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (!OidIsValid(relid) || relid == entry->relid || relid == entry->root)
			entry->valid = false;
	}
}

ScanKeyData *
cqrs_relation_key_scan(Relation rel, const CqrsRelation *relation,
					   HeapTuple row)
{
	TupleDesc	desc = RelationGetDescr(rel);
	ScanKeyData *keys = palloc(sizeof(ScanKeyData) * relation->nkeys);

	for (int i = 0; i < relation->nkeys; i++)
	{
		AttrNumber	attnum = relation->keys[i].attnum;
		Form_pg_attribute att = TupleDescAttr(desc, attnum - 1);
		TypeCacheEntry *type = lookup_type_cache(att->atttypid,
												 TYPECACHE_EQ_OPR_FINFO);
		bool		isnull;
		Datum		value = heap_getattr(row, attnum, desc, &isnull);

		ScanKeyEntryInitialize(&keys[i], isnull ? SK_ISNULL : 0, attnum,
							   BTEqualStrategyNumber, InvalidOid,
							   att->attcollation,
							   type->eq_opr_finfo.fn_oid, value);
	}
	return keys;
}

/* Fill in the part of *relation that does not depend on its masters. */
static void
describe(Relation rel, CqrsRelation *relation)
{
	Oid			pkey;
	Relation	index;

	relation->revision = require_column(rel, "cqrs_revision", INT4OID);
	relation->updated = require_column(rel, "cqrs_updated", TIMESTAMPTZOID);

	pkey = primary_key(rel);
	if (!OidIsValid(pkey))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no primary key",
						RelationGetRelationName(rel)),
				 errdetail("Messages identify a row by its primary key."),
				 errhint("Use ALTER TABLE ... ADD PRIMARY KEY.")));

	index = index_open(pkey, AccessShareLock);
	relation->key_index = pkey;
	relation->nkeys = index->rd_index->indnkeyatts;
	relation->keys = palloc0(sizeof(CqrsField) * relation->nkeys);
	relation->key_deferrable = !index->rd_index->indimmediate;
	for (int i = 0; i < relation->nkeys; i++)
	{
		AttrNumber	attnum = index->rd_index->indkey.values[i];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel),
											  attnum - 1);

		relation->keys[i].attnum = attnum;
		relation->keys[i].column = pstrdup(NameStr(att->attname));
		relation->keys[i].key = relation->keys[i].column;
	}
	index_close(index, AccessShareLock);
}

/* Chunks can be added without a command that could be refused. */
static void
check_chunk(Relation rel)
{
	if (rel->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("chunk \"%s\" of a master is not a table",
						RelationGetRelationName(rel)),
				 errdetail("Changes of a foreign table are not captured."),
				 errhint("End the masters of the hypertable with cqrs_unregister(), or drop the chunk.")));
}

/*
 * Chunks that are made later get triggers, but not the mode in which these
 * fire; and of compressed rows there are no versions that triggers see.
 */
static void
check_hypertable(Relation root, const CqrsMasterRow *row)
{
	if (!cqrs_master_is(row, CQRS_OPTION_REPLICATION, "origin"))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("option \"replication\" of master \"%s\" must be \"origin\"",
						row->cqrs_id),
				 errdetail("Table \"%s\" is a hypertable of TimescaleDB, which does not give new chunks the mode in which the triggers of the hypertable fire.",
						   RelationGetRelationName(root)),
				 errhint("Set the option to \"origin\", or use a partitioned table instead of a hypertable.")));
	if (cqrs_hypertable_may_compress(RelationGetRelid(root)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("hypertable \"%s\" has compression enabled",
						RelationGetRelationName(root)),
				 errdetail("Rows of compressed chunks can change without triggers, by which changes are captured."),
				 errhint("Disable compression (the columnstore) of the hypertable, or end its masters with cqrs_unregister().")));
}

/*
 * The table has no masters, but the caller may be a trigger of ours that was
 * copied from a master, as to the chunk of a hypertable that hypertable.c does
 * not recognize: changes must not be missed.
 */
static void
check_not_child(Relation rel)
{
	Oid			parent;
	List	   *rows;

	if (rel->rd_rel->relispartition || !has_superclass(RelationGetRelid(rel)))
		return;
	parent = get_partition_parent(RelationGetRelid(rel), true);
	rows = cqrs_master_read_all(parent);
	if (rows != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("changes of table \"%s\" cannot be captured",
						RelationGetRelationName(rel)),
				 errdetail("The table inherits from table \"%s\", and master \"%s\" requires a table without inheritance.",
						   get_rel_name(parent),
						   ((CqrsMasterRow *) linitial(rows))->cqrs_id),
				 errhint("Use ALTER TABLE ... NO INHERIT, or cqrs_unregister() to end the master.")));
}

/* A master bound to its table, whose part of *relation is filled in. */
static CqrsMaster *
resolve(Relation rel, Relation root, const CqrsRelation *relation,
		const CqrsMasterRow *row)
{
	CqrsMaster *master = palloc0(sizeof(CqrsMaster));

	master->cqrs_id = pstrdup(row->cqrs_id);
	master->relid = RelationGetRelid(root);
	cqrs_option_fill(&cqrs_options_master, row->options, master);
	if (cqrs_loaded_has(row->cqrs_id))
		master->produce = false;
	master->message.cqrs_id = master->cqrs_id;
	cqrs_fields_bind(rel, root, relation, row, master);
	return master;
}

/*
 * Read the masters of a table and bind them to it.  The old contents live
 * until the end of the transaction.  An error leaves the entry invalid.  No lock is
 * kept: callers that need one have taken it, and any user can look up a
 * master.
 */
static void
build_relation(CqrsRelation *entry)
{
	MemoryContext context;
	MemoryContext caller;
	CqrsRelation fresh = {0};
	Relation	rel;
	List	   *rows;

	context = AllocSetContextCreate(CurTransactionContext, "cqrs master",
									ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	fresh.relid = entry->relid;
	fresh.context = context;

	rel = table_open(entry->relid, AccessShareLock);
	/* An invalidation that arrives meanwhile resets this. */
	entry->valid = true;
	PG_TRY();
	{
		/* invalidate() reads the root meanwhile. */
		fresh.root = entry->root = cqrs_relation_root(RelationGetRelid(rel));
		rows = cqrs_objects_get(true) == NULL ? NIL :
			cqrs_master_read_all(fresh.root);
		if (rows != NIL)
			cqrs_relation_bind(rel, rows, &fresh);
		else if (cqrs_objects_get(true) != NULL)
			check_not_child(rel);
	}
	PG_CATCH();
	{
		entry->valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	table_close(rel, AccessShareLock);
	MemoryContextSwitchTo(caller);

	fresh.valid = entry->valid;
	if (entry->context != NULL)
		MemoryContextSetParent(entry->context, TopTransactionContext);
	MemoryContextSetParent(context, TopMemoryContext);
	*entry = fresh;
}

/*
 * The number of a column, which must exist with that type, be NOT NULL, and be
 * writable.
 */
static AttrNumber
require_column(Relation rel, const char *name, Oid type)
{
	AttrNumber	attnum = get_attnum(RelationGetRelid(rel), name);
	Form_pg_attribute att;

	if (attnum <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table \"%s\" is a master but has no column \"%s\"",
						RelationGetRelationName(rel), name),
				 errhint("Add the column again, or end the masters of the table with cqrs_unregister().")));

	att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	if (att->atttypid != type || !att->attnotnull)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of table \"%s\" is not of type %s NOT NULL",
						name, RelationGetRelationName(rel),
						format_type_be(type)),
				 errhint("Change the column, or drop it to have cqrs_register() add it.")));
	if (att->attgenerated != '\0' || att->attidentity != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_DEFINITION),
				 att->attgenerated != '\0' ?
				 errmsg("column \"%s\" of table \"%s\" is a generated column",
						name, RelationGetRelationName(rel)) :
				 errmsg("column \"%s\" of table \"%s\" is an identity column",
						name, RelationGetRelationName(rel)),
				 errdetail("The extension writes to the column with each change of a row."),
				 errhint("Change the column, or drop it to have cqrs_register() add it.")));
	return attnum;
}

/* The index of the primary key, also of a deferrable one; or InvalidOid. */
static Oid
primary_key(Relation rel)
{
	Oid			pkey = InvalidOid;
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index->rd_index->indisprimary && index->rd_index->indisvalid)
			pkey = RelationGetRelid(index);
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return pkey;
}
