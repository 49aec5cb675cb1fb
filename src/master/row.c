/*-------------------------------------------------------------------------
 *
 * row.c
 *	  Versions of rows, taken apart and compared.
 *
 * Values are the same if their binary images are.  A type's equality operator
 * is not used, since it may hide changes that messages show.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "utils/datum.h"
#include "utils/rel.h"

#include "master/row.h"

static void check_not_null(Relation rel, AttrNumber attnum,
						   const CqrsRow *row);

void
cqrs_row_init(CqrsRow *row, Relation rel)
{
	int			natts = RelationGetDescr(rel)->natts;

	row->tuple = NULL;
	row->values = palloc(sizeof(Datum) * natts);
	row->nulls = palloc(sizeof(bool) * natts);
}

void
cqrs_row_set(CqrsRow *row, Relation rel, HeapTuple tuple)
{
	row->tuple = tuple;
	heap_deform_tuple(tuple, RelationGetDescr(rel), row->values, row->nulls);
}

void
cqrs_row_check(Relation rel, const CqrsRelation *relation, const CqrsRow *row)
{
	for (int i = 0; i < relation->nkeys; i++)
		check_not_null(rel, relation->keys[i].attnum, row);
	check_not_null(rel, relation->revision, row);
	check_not_null(rel, relation->updated, row);
}

/* Raise an error if the row lacks a column that messages need. */
static void
check_not_null(Relation rel, AttrNumber attnum, const CqrsRow *row)
{
	if (!row->nulls[attnum - 1])
		return;
	ereport(ERROR,
			(errcode(ERRCODE_NOT_NULL_VIOLATION),
			 errmsg("column \"%s\" of a row of table \"%s\" is null",
					NameStr(TupleDescAttr(RelationGetDescr(rel),
										  attnum - 1)->attname),
					RelationGetRelationName(rel)),
			 errdetail("Messages need the primary key, cqrs_revision and cqrs_updated of a row.")));
}

bool
cqrs_row_same_column(Relation rel, AttrNumber attnum, const CqrsRow *before,
					 const CqrsRow *after)
{
	int			i = attnum - 1;
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);

	return before->nulls[i] == after->nulls[i] &&
		(before->nulls[i] ||
		 datum_image_eq(before->values[i], after->values[i],
						att->attbyval, att->attlen));
}

bool
cqrs_row_same(Relation rel, const CqrsRelation *relation,
			  const CqrsRow *before, const CqrsRow *after)
{
	/* The revision usually differs; then no other column is compared. */
	if (!cqrs_row_same_column(rel, relation->revision, before, after))
		return false;
	for (int i = 0; i < RelationGetNumberOfAttributes(rel); i++)
	{
		if (!TupleDescAttr(RelationGetDescr(rel), i)->attisdropped &&
			!cqrs_row_same_column(rel, i + 1, before, after))
			return false;
	}
	return true;
}

bool
cqrs_row_same_key(Relation rel, const CqrsRelation *relation,
				  const CqrsRow *before, const CqrsRow *after)
{
	for (int i = 0; i < relation->nkeys; i++)
	{
		if (!cqrs_row_same_column(rel, relation->keys[i].attnum, before,
								  after))
			return false;
	}
	return true;
}

bool
cqrs_row_same_fields(Relation rel, const CqrsMaster *master,
					 const CqrsRow *before, const CqrsRow *after)
{
	for (int i = 0; i < master->nfields; i++)
	{
		if (!master->fields[i].ours &&
			!cqrs_row_same_column(rel, master->fields[i].attnum, before,
								  after))
			return false;
	}
	return true;
}
