/*-------------------------------------------------------------------------
 *
 * master.c
 *	  The rows of cqrs.master: what users have registered, by name.
 *
 * Callers (register.c) have checked what the user may do.  A caller that writes
 * holds a lock on the master's table that conflicts with writers and with other
 * changes of its masters.  If two sessions use the same name, the unique index on
 * cqrs_id decides.
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

#include "base/home.h"
#include "base/objects.h"
#include "define/definition.h"
#include "define/option.h"
#include "master/master.h"

StaticAssertDecl(offsetof(CqrsMasterRow, options) ==
				 offsetof(CqrsDefinition, options),
				 "a CqrsMasterRow is a CqrsDefinition");

static CqrsDefinitionKind kind_of_masters(void);

CqrsMasterRow *
cqrs_master_read(const char *cqrs_id, bool missing_ok)
{
	CqrsDefinitionKind kind = kind_of_masters();
	CqrsMasterRow *row = cqrs_definition_read(&kind, cqrs_id);

	if (row == NULL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("master \"%s\" does not exist", cqrs_id),
				 errdetail("No table of this database has a master of that name."),
				 errhint("Use cqrs_register() to make a table a master; see cqrs.master for the masters that exist.")));
	return row;
}

List *
cqrs_master_read_all(Oid relid)
{
	Relation	master = table_open(cqrs_objects_get(false)->master,
									AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *rows = NIL;

	ScanKeyInit(&key, CQRS_DEFINITION_RELATION, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(master,
							  cqrs_objects_get(false)->master_by_relation,
							  OidIsValid(relid), NULL,
							  OidIsValid(relid) ? 1 : 0, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		rows = lappend(rows, cqrs_definition_from_tuple(master, tuple,
														CQRS_NOPTIONS));
	systable_endscan(scan);
	table_close(master, AccessShareLock);

	cqrs_definition_sort(rows);
	return rows;
}

void
cqrs_master_insert(const CqrsMasterRow *row)
{
	CqrsDefinitionKind kind = kind_of_masters();

	cqrs_definition_insert(&kind, row);
	cqrs_home_claim();
}

void
cqrs_master_update(const CqrsMasterRow *row)
{
	CqrsDefinitionKind kind = kind_of_masters();

	cqrs_definition_update(&kind, row);
}

void
cqrs_master_delete(const char *cqrs_id)
{
	CqrsDefinitionKind kind = kind_of_masters();

	cqrs_definition_delete(&kind, cqrs_id);
}

/* What define/definition.c needs to know of cqrs.master. */
static CqrsDefinitionKind
kind_of_masters(void)
{
	const CqrsObjects *objects = cqrs_objects_get(false);
	CqrsDefinitionKind kind = {
		objects->master, &objects->master_by_id, CQRS_NOPTIONS
	};

	return kind;
}

char *
cqrs_master_text(const CqrsMasterRow *row, CqrsOption option)
{
	return cqrs_option_text(row->options[option]);
}

List *
cqrs_master_names(const CqrsMasterRow *row, CqrsOption option)
{
	return cqrs_option_names(row->options[option]);
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
				 errhint("See cqrs.master for the masters that exist.")));
	return text_to_cstring(PG_GETARG_TEXT_PP(arg));
}
