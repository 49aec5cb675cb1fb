/*-------------------------------------------------------------------------
 *
 * eligible.c
 *	  Which tables can have masters.
 *
 * Other properties of a table, such as its key, are checked together with the
 * definition of a master (register.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_inherits.h"
#include "mb/pg_wchar.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/hypertable.h"
#include "base/objects.h"
#include "master/relation.h"
#include "schema/eligible.h"

static bool has_inheritance(Relation rel);

void
cqrs_eligible_check_not_partition(Relation rel)
{
	Oid			hypertable = cqrs_hypertable_of_chunk(RelationGetRelid(rel));

	if (OidIsValid(hypertable))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot register \"%s\"", RelationGetRelationName(rel)),
				 errdetail("The table is a chunk of a hypertable."),
				 errhint("Register the hypertable \"%s\", whose masters all its chunks are part of.",
						 get_rel_name(hypertable))));
	if (!rel->rd_rel->relispartition)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("cannot register \"%s\"", RelationGetRelationName(rel)),
			 errdetail("The table is a partition."),
			 errhint("Register the partitioned table \"%s\", whose masters all its partitions are part of.",
					 get_rel_name(cqrs_relation_root(RelationGetRelid(rel))))));
}

void
cqrs_eligible_check_partitions(Oid relid)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(relid, ShareRowExclusiveLock, NULL))
	{
		Relation	rel = table_open(lfirst_oid(lc), NoLock);

		cqrs_eligible_check_table(rel);
		table_close(rel, NoLock);
	}
}

void
cqrs_eligible_check_table(Relation rel)
{
	const char *name = RelationGetRelationName(rel);
	const char *follower;

	if (IsCatalogRelation(rel) || IsToastRelation(rel) ||
		RelationGetNamespace(rel) == get_namespace_oid("cqrs", true))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("The table is a system table."),
				 errhint("Register a table of your own.")));
	if (rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("The table is a foreign table; changes that others make to it are not seen here."),
				 errhint("Register the table on the server that owns it.")));
	if (rel->rd_rel->relkind != RELKIND_RELATION &&
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("The relation is not a table."),
				 errhint("Register the table below a view; columns are chosen by \"fields\".")));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("The table is temporary."),
				 errhint("Register a permanent table.")));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("The table is unlogged; a crash empties it without a trace."),
				 errhint("Use ALTER TABLE ... SET LOGGED.")));
	if (rel->rd_rel->relkind == RELKIND_RELATION &&
		rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("The access method of the table is not \"heap\", on whose row versions the capture of changes relies."),
				 errhint("Use ALTER TABLE ... SET ACCESS METHOD heap, or recreate the table.")));
	if (has_inheritance(rel))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("The table has inheritance parents or children, whose rows only some commands would include."),
				 errhint("Register a table without inheritance.")));
	follower = cqrs_objects_replica_of(RelationGetRelid(rel));
	if (follower != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("The table follows a master, as replica \"%s\".",
						   follower),
				 errhint("Use another table, or cqrs_unregister_replica() to end the replica.")));
	if (GetDatabaseEncoding() == PG_SQL_ASCII)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot register \"%s\"", name),
				 errdetail("The encoding of the database is SQL_ASCII; messages are UTF-8."),
				 errhint("Use a database with a known encoding.")));
}

/* Whether a table has parents or children, other than a hypertable and chunks. */
static bool
has_inheritance(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	List	   *children;
	ListCell   *lc;

	if (rel->rd_rel->relkind != RELKIND_RELATION || rel->rd_rel->relispartition)
		return false;
	if (has_superclass(relid))
		return !OidIsValid(cqrs_hypertable_of_chunk(relid));
	if (!rel->rd_rel->relhassubclass)
		return false;
	children = find_inheritance_children(relid, NoLock);
	if (!cqrs_hypertable_is(relid))
		return children != NIL;
	foreach(lc, children)
	{
		if (has_subclass(lfirst_oid(lc)) &&
			find_inheritance_children(lfirst_oid(lc), NoLock) != NIL)
			return true;
	}
	return false;
}
