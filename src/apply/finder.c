/*-------------------------------------------------------------------------
 *
 * finder.c
 *	  Rows of replicas, looked up by the keys of messages, for users.
 *
 * The queries run with the rights of the current user.  The user must have
 * SELECT on the whole table, and no policy may hide rows from the user: a
 * hidden row would be taken for missing.  Keys are read with the rights of the
 * table's owner, because the check of a domain may call the owner's functions.
 *
 * The memory is the caller's, the plan SPI's.  The end of the (sub)transaction
 * undoes all that has to be undone after an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"

#include "apply/content.h"
#include "apply/finder.h"

static CqrsReplicaRow *read_row(const char *cqrs_id);
static void check_rights(Relation rel);
static char *key_condition(const CqrsFinder *finder);
static char *column_name(const CqrsFinder *finder, AttrNumber attnum);

CqrsFinder *
cqrs_finder_begin(const char *cqrs_id)
{
	CqrsFinder *finder = palloc0(sizeof(CqrsFinder));
	CqrsMapping *mapping = &finder->mapping;
	Oid			relid = read_row(cqrs_id)->relid;
	Oid			types[INDEX_MAX_KEYS];
	char	   *alive;

	finder->rel = table_open(relid, AccessShareLock);
	finder->row = read_row(cqrs_id);
	if (finder->row->relid != relid)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("replica \"%s\" was changed concurrently", cqrs_id)));
	check_rights(finder->rel);
	cqrs_mapping_bind(finder->rel, finder->row, mapping);
	for (int i = 0; i < mapping->nkeys; i++)
	{
		const CqrsMappedColumn *column = &mapping->columns[mapping->keys[i]];

		types[i] = column->type;
		finder->inputs[i] = cqrs_value_in_prepare(column->type,
												  column->typmod, true);
	}
	alive = cqrs_finder_alive(finder);
	finder->plan = SPI_prepare(psprintf("SELECT %s::pg_catalog.int8, %s FROM %s WHERE %s",
										column_name(finder,
													mapping->columns[mapping->revision].attnum),
										alive, cqrs_finder_table(finder),
										key_condition(finder)),
							   mapping->nkeys, types);
	if (finder->plan == NULL)
		elog(ERROR, "could not prepare a query: %s",
			 SPI_result_code_string(SPI_result));
	return finder;
}

void
cqrs_finder_end(CqrsFinder *finder)
{
	SPI_freeplan(finder->plan);
	table_close(finder->rel, NoLock);
}

void
cqrs_finder_read_key(CqrsFinder *finder, const CqrsJsonValue *key,
					 Datum *values)
{
	int			nkeys = finder->mapping.nkeys;
	CqrsJsonMembers elements = {0};
	Oid			role;
	int			security;

	if (nkeys > 1)
	{
		if (key->kind == CQRS_JSON_ARRAY)
			cqrs_json_scan_array(key, &elements);
		if (elements.nmembers != nkeys)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
					 errmsg("key of replica \"%s\" is not an array of %d values",
							finder->row->cqrs_id, nkeys)));
	}
	GetUserIdAndSecContext(&role, &security);
	SetUserIdAndSecContext(finder->rel->rd_rel->relowner,
						   security | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	for (int i = 0; i < nkeys; i++)
	{
		bool		isnull;

		values[i] = cqrs_value_in_read(finder->inputs[i], nkeys == 1 ? key :
									   &elements.members[i].value, &isnull);
		if (isnull)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("key of replica \"%s\" must not be null",
							finder->row->cqrs_id)));
	}
	SetUserIdAndSecContext(role, security);
}

CqrsFoundRow
cqrs_finder_find(CqrsFinder *finder, const Datum *key)
{
	CqrsFoundRow row = {.revision = -1};

	if (SPI_execute_plan(finder->plan, unconstify(Datum *, key), NULL, true,
						 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look up a row of replica \"%s\"",
			 finder->row->cqrs_id);
	if (SPI_processed > 0)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;

		row.revision = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
		row.alive = DatumGetBool(SPI_getbinval(tuple, desc, 2, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	return row;
}

char *
cqrs_finder_table(const CqrsFinder *finder)
{
	/* A table without partitions may have got inheritance children. */
	return psprintf("%s%s",
					finder->rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ? "" : "ONLY ",
					quote_qualified_identifier(get_namespace_name(RelationGetNamespace(finder->rel)),
											   RelationGetRelationName(finder->rel)));
}

char *
cqrs_finder_alive(const CqrsFinder *finder)
{
	AttrNumber	mark = finder->mapping.soft_delete;

	if (mark == InvalidAttrNumber)
		return pstrdup("true");
	if (TupleDescAttr(RelationGetDescr(finder->rel),
					  mark - 1)->atttypid == BOOLOID)
		return psprintf("%s IS NOT TRUE", column_name(finder, mark));
	return psprintf("%s IS NULL", column_name(finder, mark));
}

/* The row of cqrs.replica, with a table. */
static CqrsReplicaRow *
read_row(const char *cqrs_id)
{
	CqrsReplicaRow *row = cqrs_replica_read(cqrs_id);

	if (row == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("replica \"%s\" does not exist", cqrs_id)));
	if (!OidIsValid(row->relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica \"%s\" has no table", cqrs_id)));
	return row;
}

/* Raise an error unless the user may read all rows of the table. */
static void
check_rights(Relation rel)
{
	AclResult	result = pg_class_aclcheck(RelationGetRelid(rel), GetUserId(),
										   ACL_SELECT);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, RelationGetRelationName(rel));
	if (check_enable_rls(RelationGetRelid(rel), InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot look up rows of table \"%s\", which has row security for role \"%s\"",
						RelationGetRelationName(rel),
						GetUserNameFromId(GetUserId(), false)),
				 errdetail("Rows that the policies of the table hide would be taken for missing."),
				 errhint("Call the function as a role that sees all rows.")));
}

/* The condition that a row has the key $1, ... */
static char *
key_condition(const CqrsFinder *finder)
{
	const CqrsMapping *mapping = &finder->mapping;
	Relation	index = index_open(mapping->key_index, AccessShareLock);
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < mapping->nkeys; i++)
	{
		const CqrsMappedColumn *column = &mapping->columns[mapping->keys[i]];
		Oid			operator = get_opfamily_member(index->rd_opfamily[i],
												   index->rd_opcintype[i],
												   index->rd_opcintype[i],
												   BTEqualStrategyNumber);

		if (i > 0)
			appendStringInfoString(&text, " AND ");
		generate_operator_clause(&text,
								 column_name(finder, column->attnum),
								 column->type, operator,
								 psprintf("$%d", i + 1), column->type);
	}
	index_close(index, AccessShareLock);
	return text.data;
}

/* The quoted name of a column, palloc'd. */
static char *
column_name(const CqrsFinder *finder, AttrNumber attnum)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(finder->rel),
										  attnum - 1);

	return pstrdup(quote_identifier(NameStr(att->attname)));
}
