/*-------------------------------------------------------------------------
 *
 * master.c
 *	  The rows of cqrs.master: what users have registered, by name.
 *
 * Rows are read and written directly, as in system catalogs, so that no
 * privileges on cqrs.master are needed or granted: callers (register.c) have
 * checked what the user may do.  A caller that writes holds a lock on the
 * master's table that conflicts with writers and with other changes of its
 * masters.  If two sessions use the same name, the unique index on cqrs_id
 * decides.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "base/objects.h"
#include "define/option.h"
#include "master/master.h"

/* Columns of cqrs.master; the options follow in the order of CqrsOption */
enum
{
	MASTER_CQRS_ID = 1,
	MASTER_RELATION,
	MASTER_FIRST_OPTION,
	MASTER_NATTS = MASTER_FIRST_OPTION + CQRS_NOPTIONS - 1
};

StaticAssertDecl(MASTER_NATTS == CQRS_MASTER_NATTS,
				 "cqrs.master has as many columns as objects.h says");

static HeapTuple find_tuple(Relation master, const char *cqrs_id);
static CqrsMasterRow *row_from_tuple(Relation master, HeapTuple tuple);
static HeapTuple tuple_from_row(Relation master, const CqrsMasterRow *row);
static int	compare_cqrs_id(const ListCell *a, const ListCell *b);

CqrsMasterRow *
cqrs_master_read(const char *cqrs_id, bool missing_ok)
{
	Relation	master = table_open(cqrs_objects_get(false)->master,
									AccessShareLock);
	HeapTuple	tuple = find_tuple(master, cqrs_id);
	CqrsMasterRow *row = NULL;

	if (HeapTupleIsValid(tuple))
		row = row_from_tuple(master, tuple);
	else if (!missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("master \"%s\" does not exist", cqrs_id),
				 errdetail("No table of this database has a master of that name."),
				 errhint("Use cqrs_register() to make a table a master; see cqrs.master for those that exist.")));
	table_close(master, AccessShareLock);
	return row;
}

List *
cqrs_master_read_all(Oid relid)
{
	const CqrsObjects *objects = cqrs_objects_get(false);
	Relation	master = table_open(objects->master, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *rows = NIL;

	ScanKeyInit(&key, MASTER_RELATION, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(master, objects->master_by_relation,
							  OidIsValid(relid), NULL,
							  OidIsValid(relid) ? 1 : 0, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		rows = lappend(rows, row_from_tuple(master, tuple));
	systable_endscan(scan);
	table_close(master, AccessShareLock);

	list_sort(rows, compare_cqrs_id);
	return rows;
}

void
cqrs_master_insert(const CqrsMasterRow *row)
{
	Relation	master = table_open(cqrs_objects_get(false)->master,
									RowExclusiveLock);

	CatalogTupleInsert(master, tuple_from_row(master, row));
	table_close(master, RowExclusiveLock);
}

void
cqrs_master_update(const CqrsMasterRow *row)
{
	Relation	master = table_open(cqrs_objects_get(false)->master,
									RowExclusiveLock);
	HeapTuple	old = find_tuple(master, row->cqrs_id);

	if (!HeapTupleIsValid(old))
		elog(ERROR, "master \"%s\" has disappeared", row->cqrs_id);
	CatalogTupleUpdate(master, &old->t_self, tuple_from_row(master, row));
	table_close(master, RowExclusiveLock);
}

void
cqrs_master_delete(const char *cqrs_id)
{
	Relation	master = table_open(cqrs_objects_get(false)->master,
									RowExclusiveLock);
	HeapTuple	old = find_tuple(master, cqrs_id);

	if (!HeapTupleIsValid(old))
		elog(ERROR, "master \"%s\" has disappeared", cqrs_id);
	CatalogTupleDelete(master, &old->t_self);
	table_close(master, RowExclusiveLock);
}

/* A copy of the row with that name, or NULL. */
static HeapTuple
find_tuple(Relation master, const char *cqrs_id)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyEntryInitialize(&key, 0, MASTER_CQRS_ID, BTEqualStrategyNumber,
						   InvalidOid, C_COLLATION_OID, F_TEXTEQ,
						   CStringGetTextDatum(cqrs_id));
	scan = systable_beginscan(master, cqrs_objects_get(false)->master_by_id,
							  true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	return tuple;
}

static CqrsMasterRow *
row_from_tuple(Relation master, HeapTuple tuple)
{
	CqrsMasterRow *row = palloc0(sizeof(CqrsMasterRow));
	TupleDesc	desc = RelationGetDescr(master);
	Datum		values[MASTER_NATTS];
	bool		nulls[MASTER_NATTS];

	heap_deform_tuple(tuple, desc, values, nulls);
	row->cqrs_id = TextDatumGetCString(values[MASTER_CQRS_ID - 1]);
	row->relid = DatumGetObjectId(values[MASTER_RELATION - 1]);
	for (int i = 0; i < CQRS_NOPTIONS; i++)
	{
		int			att = MASTER_FIRST_OPTION - 1 + i;
		Form_pg_attribute form = TupleDescAttr(desc, att);

		row->options[i].isnull = nulls[att];
		if (nulls[att])
			continue;
		row->options[i].value = form->attbyval ? values[att] :
			PointerGetDatum(PG_DETOAST_DATUM_COPY(values[att]));
	}
	return row;
}

char *
cqrs_master_text(const CqrsMasterRow *row, CqrsOption option)
{
	return row->options[option].isnull ? NULL :
		TextDatumGetCString(row->options[option].value);
}

List *
cqrs_master_names(const CqrsMasterRow *row, CqrsOption option)
{
	return row->options[option].isnull ? NIL :
		cqrs_option_text_list(row->options[option].value);
}

int
cqrs_master_int(const CqrsMasterRow *row, CqrsOption option)
{
	return row->options[option].isnull ? -1 :
		DatumGetInt32(row->options[option].value);
}

bool
cqrs_master_bool(const CqrsMasterRow *row, CqrsOption option)
{
	return !row->options[option].isnull &&
		DatumGetBool(row->options[option].value);
}

bool
cqrs_master_is(const CqrsMasterRow *row, CqrsOption option, const char *choice)
{
	char	   *value = cqrs_master_text(row, option);

	return value != NULL && strcmp(value, choice) == 0;
}

char *
cqrs_master_id_arg(FunctionCallInfo fcinfo, int arg)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("cqrs_id must not be null"),
				 errdetail("The argument names the master."),
				 errhint("See cqrs.master for those that exist.")));
	return text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

static HeapTuple
tuple_from_row(Relation master, const CqrsMasterRow *row)
{
	Datum		values[MASTER_NATTS] = {0};
	bool		nulls[MASTER_NATTS] = {false};

	values[MASTER_CQRS_ID - 1] = CStringGetTextDatum(row->cqrs_id);
	values[MASTER_RELATION - 1] = ObjectIdGetDatum(row->relid);
	for (int i = 0; i < CQRS_NOPTIONS; i++)
	{
		values[MASTER_FIRST_OPTION - 1 + i] = row->options[i].value;
		nulls[MASTER_FIRST_OPTION - 1 + i] = row->options[i].isnull;
	}
	return heap_form_tuple(RelationGetDescr(master), values, nulls);
}

static int
compare_cqrs_id(const ListCell *a, const ListCell *b)
{
	return strcmp(((CqrsMasterRow *) lfirst(a))->cqrs_id,
				  ((CqrsMasterRow *) lfirst(b))->cqrs_id);
}
