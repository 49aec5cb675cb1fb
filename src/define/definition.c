/*-------------------------------------------------------------------------
 *
 * definition.c
 *	  What users have defined, as it is stored.
 *
 * Rows are read and written directly, as in system catalogs, so that no
 * privileges on the tables are needed or granted.  Callers have checked the
 * rights of the user.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_collation.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "base/objects.h"
#include "define/definition.h"

static HeapTuple find_tuple(const CqrsDefinitionKind *kind, Relation rel,
							const char *cqrs_id);
static HeapTuple get_tuple(const CqrsDefinitionKind *kind, Relation rel,
						   const char *cqrs_id);
static HeapTuple form_tuple(const CqrsDefinitionKind *kind, Relation rel,
							const CqrsDefinition *row);
static int	compare_cqrs_id(const ListCell *a, const ListCell *b);

void *
cqrs_definition_read(const CqrsDefinitionKind *kind, const char *cqrs_id)
{
	Relation	rel = table_open(kind->table, AccessShareLock);
	HeapTuple	tuple = find_tuple(kind, rel, cqrs_id);
	void	   *row = NULL;

	if (HeapTupleIsValid(tuple))
		row = cqrs_definition_from_tuple(rel, tuple, kind->noptions);
	table_close(rel, AccessShareLock);
	return row;
}

void *
cqrs_definition_from_tuple(Relation rel, HeapTuple tuple, int noptions)
{
	int			natts = CQRS_DEFINITION_NATTS(noptions);
	CqrsDefinition *row = palloc0(offsetof(CqrsDefinition, options) +
								  sizeof(NullableDatum) * noptions);
	TupleDesc	desc = RelationGetDescr(rel);
	Datum	   *values = palloc(sizeof(Datum) * natts);
	bool	   *nulls = palloc(sizeof(bool) * natts);

	Assert(desc->natts == natts);	/* I21 */
	heap_deform_tuple(tuple, desc, values, nulls);
	row->cqrs_id = TextDatumGetCString(values[0]);
	if (!nulls[CQRS_DEFINITION_RELATION - 1])
		row->relid = DatumGetObjectId(values[CQRS_DEFINITION_RELATION - 1]);
	for (int i = 0; i < noptions; i++)
	{
		int			att = CQRS_DEFINITION_RELATION + i;
		Form_pg_attribute form = TupleDescAttr(desc, att);

		row->options[i].isnull = nulls[att];
		if (nulls[att])
			continue;
		row->options[i].value = form->attlen == -1 ?
			PointerGetDatum(PG_DETOAST_DATUM_COPY(values[att])) :
			datumCopy(values[att], form->attbyval, form->attlen);
	}
	pfree(values);
	pfree(nulls);
	return row;
}

void
cqrs_definition_insert(const CqrsDefinitionKind *kind, const void *row)
{
	Relation	rel = table_open(kind->table, RowExclusiveLock);

	CatalogTupleInsert(rel, form_tuple(kind, rel, row));
	table_close(rel, RowExclusiveLock);
}

void
cqrs_definition_update(const CqrsDefinitionKind *kind, const void *row)
{
	Relation	rel = table_open(kind->table, RowExclusiveLock);
	HeapTuple	old = get_tuple(kind, rel,
								((const CqrsDefinition *) row)->cqrs_id);

	CatalogTupleUpdate(rel, &old->t_self, form_tuple(kind, rel, row));
	table_close(rel, RowExclusiveLock);
}

void
cqrs_definition_delete(const CqrsDefinitionKind *kind, const char *cqrs_id)
{
	Relation	rel = table_open(kind->table, RowExclusiveLock);

	CatalogTupleDelete(rel, &get_tuple(kind, rel, cqrs_id)->t_self);
	table_close(rel, RowExclusiveLock);
}

void
cqrs_definition_sort(List *rows)
{
	list_sort(rows, compare_cqrs_id);
}

/* A copy of the row with a cqrs_id, or NULL. */
static HeapTuple
find_tuple(const CqrsDefinitionKind *kind, Relation rel, const char *cqrs_id)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	/* cqrs_id is the first column, and the index's only key. */
	ScanKeyEntryInitialize(&key, 0, 1, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ,
						   CStringGetTextDatum(cqrs_id));
	/* The table is locked. */
	(void) cqrs_objects_get(false);
	scan = systable_beginscan(rel, *kind->by_id, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	return tuple;
}

/* A copy of a row that the caller has read and locked. */
static HeapTuple
get_tuple(const CqrsDefinitionKind *kind, Relation rel, const char *cqrs_id)
{
	HeapTuple	tuple = find_tuple(kind, rel, cqrs_id);

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "row \"%s\" has disappeared from \"cqrs.%s\"", cqrs_id,
			 RelationGetRelationName(rel));
	return tuple;
}

/* The row as a tuple of the table, in the current context. */
static HeapTuple
form_tuple(const CqrsDefinitionKind *kind, Relation rel,
		   const CqrsDefinition *row)
{
	int			natts = CQRS_DEFINITION_NATTS(kind->noptions);
	Datum	   *values = palloc0(sizeof(Datum) * natts);
	bool	   *nulls = palloc0(sizeof(bool) * natts);

	values[0] = CStringGetTextDatum(row->cqrs_id);
	values[CQRS_DEFINITION_RELATION - 1] = ObjectIdGetDatum(row->relid);
	nulls[CQRS_DEFINITION_RELATION - 1] = !OidIsValid(row->relid);
	for (int i = 0; i < kind->noptions; i++)
	{
		values[CQRS_DEFINITION_RELATION + i] = row->options[i].value;
		nulls[CQRS_DEFINITION_RELATION + i] = row->options[i].isnull;
	}
	return heap_form_tuple(RelationGetDescr(rel), values, nulls);
}

static int
compare_cqrs_id(const ListCell *a, const ListCell *b)
{
	return strcmp(((CqrsDefinition *) lfirst(a))->cqrs_id,
				  ((CqrsDefinition *) lfirst(b))->cqrs_id);
}
