/*-------------------------------------------------------------------------
 *
 * locate.c
 *	  Rows of masters' tables that callers pass as records, found in their tables.
 *
 * A record has no address, and its caller can have made it up.  So its row is
 * looked up by the primary key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tupconvert.h"
#include "catalog/pg_inherits.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/compat.h"
#include "master/locate.h"

static bool is_written(Oid relid);
static bool search_table(Relation rel, HeapTuple tuple, CqrsLocateSearch search,
						 void *arg);
static bool find_in_partition(Relation root, Oid relid, HeapTuple tuple,
							  CqrsLocateSearch search, void *arg);

Oid
cqrs_locate_record(HeapTupleHeader header, HeapTuple tuple)
{
	Oid			relid = get_typ_typrelid(HeapTupleHeaderGetTypeId(header));

	if (!OidIsValid(relid) || cqrs_relation_get(relid) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("row of type %s is not a row of a master's table",
						format_type_be(HeapTupleHeaderGetTypeId(header))),
				 errdetail("The type is not the row type of a table in cqrs.master."),
				 errhint("Pass the table's own rows, as in SELECT cqrs_sync(a) FROM author a.")));
	memset(tuple, 0, sizeof(*tuple));
	tuple->t_data = header;
	tuple->t_len = HeapTupleHeaderGetDatumLength(header);
	return relid;
}

bool
cqrs_locate_row(Relation rel, HeapTuple tuple, bool only_written,
				CqrsLocateSearch search, void *arg)
{
	static Oid	last = InvalidOid;
	List	   *candidates;
	ListCell   *lc;

	if (!cqrs_relation_has_parts(rel))
		return (!only_written || is_written(RelationGetRelid(rel))) &&
			search_table(rel, tuple, search, arg);

	/* Rows that come one after the other are often in one partition. */
	candidates = find_all_inheritors(RelationGetRelid(rel),
									 only_written ? NoLock : AccessShareLock,
									 NULL);
	if (list_member_oid(candidates, last))
		candidates = lcons_oid(last, candidates);
	foreach(lc, candidates)
	{
		Oid			relid = lfirst_oid(lc);

		if (get_rel_relkind(relid) == RELKIND_RELATION &&
			(!only_written || is_written(relid)) &&
			find_in_partition(rel, relid, tuple, search, arg))
		{
			last = relid;
			return true;
		}
	}
	return false;
}

/* A transaction that writes to a table keeps this lock on it until its end. */
static bool
is_written(Oid relid)
{
	return cqrs_compat_relation_has_lock(relid, RowExclusiveLock);
}

/* The caller has locked the table. */
static bool
find_in_partition(Relation root, Oid relid, HeapTuple tuple,
				  CqrsLocateSearch search, void *arg)
{
	Relation	rel = table_open(relid, NoLock);
	TupleConversionMap *map = convert_tuples_by_name(RelationGetDescr(root),
													 RelationGetDescr(rel));
	bool		found;

	if (map != NULL)
		tuple = execute_attr_map_tuple(tuple, map);
	found = search_table(rel, tuple, search, arg);
	table_close(rel, NoLock);
	return found;
}

/* Call "search", if the table has masters. */
static bool
search_table(Relation rel, HeapTuple tuple, CqrsLocateSearch search, void *arg)
{
	CqrsRelation *relation = cqrs_relation_get(RelationGetRelid(rel));

	return relation != NULL && search(rel, relation, tuple, arg);
}
