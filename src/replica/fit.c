/*-------------------------------------------------------------------------
 *
 * fit.c
 *	  Which tables can follow a master.
 *
 * A table that a crash empties, or whose rows are not all seen, would differ
 * from its master without anybody's notice, so it is refused.  What may make a
 * message fail is warned of: such a message is kept, and tried again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "base/objects.h"
#include "replica/fit.h"

static void check_kind(const CqrsTableFacts *facts);
static void check_persistence(const CqrsTableFacts *facts);
static void warn_keys(Oid relid, List **warnings);
static void warn_unique(Oid relid, List **warnings);
static void warn(List **warnings, char *message, char *detail, char *hint);
static char *name_of(Oid relid);

void
cqrs_fit_check(const CqrsTableFacts *facts)
{
	char	   *master;

	if (GetDatabaseEncoding() == PG_SQL_ASCII)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the encoding of the database is SQL_ASCII"),
				 errdetail("Messages are UTF-8, and cannot be converted."),
				 errhint("Use a database with a known encoding.")));
	check_kind(facts);
	check_persistence(facts);
	if (facts->is_partition)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("table \"%s\" is a partition", facts->name),
				 errdetail("Messages may have any row of the partitioned table."),
				 errhint("Register the partitioned table, whose rows are stored in the right partition.")));
	if (facts->inherits)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table \"%s\" has inheritance parents or children",
						facts->name),
				 errdetail("A row of a message may be stored in any of these tables."),
				 errhint("Register a table without inheritance.")));
	if (facts->forces_security)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table \"%s\" forces row security on its owner",
						facts->name),
				 errdetail("Messages are applied with the rights of the table's owner, and policies would hide rows from them."),
				 errhint("Use ALTER TABLE ... NO FORCE ROW LEVEL SECURITY.")));
	master = cqrs_objects_master_of(facts->relid);
	if (master != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" is a master", facts->name),
				 errdetail("Master \"%s\" publishes the table.", master),
				 errhint("Use another table, or cqrs_unregister() to end the master.")));
}

void
cqrs_fit_check_partition(const CqrsTableFacts *facts)
{
	check_kind(facts);
	check_persistence(facts);
}

/* Raise an error unless the relation is a table of users that stores rows. */
static void
check_kind(const CqrsTableFacts *facts)
{
	if (IsCatalogNamespace(facts->schema) || IsToastNamespace(facts->schema) ||
		facts->relid < FirstNormalObjectId ||
		facts->schema == get_namespace_oid("cqrs", true))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a system table", facts->name),
				 errdetail("The rows of a system table cannot come from a master."),
				 errhint("Register a table of your own.")));
	if (facts->kind == RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a foreign table", facts->name),
				 errdetail("A row of a foreign table is on another server, where it cannot be committed together with the state of its message."),
				 errhint("Register the table on the server that owns it.")));
	if (facts->kind != RELKIND_RELATION &&
		facts->kind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", facts->name),
				 errdetail("Rows are stored in tables only."),
				 errhint("Register the table below a view; columns are chosen by \"fields\".")));
}

/*
 * Raise an error if the consumer has no access to the table, or a crash
 * empties it.
 */
static void
check_persistence(const CqrsTableFacts *facts)
{
	if (facts->persistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("table \"%s\" is temporary", facts->name),
				 errdetail("The consumer is another session, which has no access to the table."),
				 errhint("Use a permanent table.")));
	if (facts->persistence == RELPERSISTENCE_UNLOGGED)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("table \"%s\" is unlogged", facts->name),
				 errdetail("A crash would empty the table, and its master would not send the rows again."),
				 errhint("Use ALTER TABLE ... SET LOGGED.")));
}

List *
cqrs_fit_warnings(const CqrsReplicaRow *row)
{
	List	   *warnings = NIL;

	if (!OidIsValid(row->relid))
		return NIL;
	/* With soft_delete, no row is deleted. */
	if (row->options[CQRS_REPLICA_SOFT_DELETE].isnull)
		warn_keys(row->relid, &warnings);
	warn_unique(row->relid, &warnings);
	return warnings;
}

/* Foreign keys that keep rows from being deleted. */
static void
warn_keys(Oid relid, List **warnings)
{
	Relation	catalog = table_open(ConstraintRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_constraint_confrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, InvalidOid, false, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT(tuple);

		if (form->contype != CONSTRAINT_FOREIGN ||
			OidIsValid(form->conparentid) ||
			(form->confdeltype != FKCONSTR_ACTION_NOACTION &&
			 form->confdeltype != FKCONSTR_ACTION_RESTRICT))
			continue;
		warn(warnings,
			 psprintf("foreign key \"%s\" of table %s refers to table %s without ON DELETE CASCADE",
					  NameStr(form->conname), name_of(form->conrelid),
					  name_of(relid)),
			 psprintf("The DELETE of a row that table %s refers to fails.",
					  name_of(form->conrelid)),
			 pstrdup("Recreate the foreign key with ON DELETE CASCADE, or set \"soft_delete\"."));
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
}

/* Unique indexes besides the primary key. */
static void
warn_unique(Oid relid, List **warnings)
{
	Relation	catalog = table_open(IndexRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_index_indrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, IndexIndrelidIndexId, true, NULL, 1,
							  &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_index index = (Form_pg_index) GETSTRUCT(tuple);

		if (!index->indisunique || index->indisprimary)
			continue;
		warn(warnings,
			 psprintf("table %s has a unique index \"%s\" besides its primary key",
					  name_of(relid), get_rel_name(index->indexrelid)),
			 pstrdup("Rows that swap their values at the master cannot be applied one after the other."),
			 pstrdup("Drop the index, and leave the check to the master."));
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
}

/* Add a warning, which keeps the texts. */
static void
warn(List **warnings, char *message, char *detail, char *hint)
{
	CqrsFitWarning *warning = palloc(sizeof(CqrsFitWarning));

	warning->message = message;
	warning->detail = detail;
	warning->hint = hint;
	*warnings = lappend(*warnings, warning);
}

/* The name of a table, with its schema, quoted as needed. */
static char *
name_of(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}
