/*-------------------------------------------------------------------------
 *
 * instance_data.c
 *	  The instance_data of messages.
 *
 * Published fields or the result of a serializer, and for a DELETE the key;
 * always with cqrs_revision and cqrs_updated.  Runs in the scope of
 * cqrs_hook_enter().  Results are in the caller's context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "compose/instance_data.h"
#include "compose/serialize.h"
#include "compose/value.h"
#include "master/locate.h"

PG_FUNCTION_INFO_V1(cqrs_to_json);

static char *with_revision(Relation rel, const CqrsRelation *relation,
						   HeapTuple row, const char *object);

/* cqrs_to_json(row record, cqrs_id text) RETURNS json */
Datum
cqrs_to_json(PG_FUNCTION_ARGS)
{
	HeapTupleHeader header = PG_GETARG_HEAPTUPLEHEADER(0);
	char	   *cqrs_id = text_to_cstring(PG_GETARG_TEXT_PP(1));
	HeapTupleData tuple;
	HeapTuple	row = &tuple;
	CqrsRelation *relation;
	CqrsMaster *master;
	Relation	rel = cqrs_relation_open(cqrs_id, AccessShareLock, &relation,
										 &master);
	CqrsHookScope scope;
	CqrsRow		values;
	char	   *json;

	if (cqrs_locate_record(header, &tuple) != relation->relid)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("row is not of the table of master \"%s\"", cqrs_id),
				 errdetail("The row is of type %s, and the table of the master is \"%s\".",
						   format_type_be(HeapTupleHeaderGetTypeId(header)),
						   get_rel_name(relation->relid)),
				 errhint("See cqrs.master for the masters of a table.")));

	cqrs_instance_data_check_owner(relation, master);
	cqrs_row_init(&values, rel);
	cqrs_row_set(&values, rel, row);
	cqrs_row_check(rel, relation, &values);
	cqrs_hook_enter(&scope, rel, relation);
	cqrs_instance_data(rel, relation, master, &row, 1, &json);
	cqrs_hook_leave(&scope);
	table_close(rel, AccessShareLock);
	PG_RETURN_TEXT_P(cstring_to_text(json));
}

/* A serializer has its owner's rights, and the caller can make up the row. */
void
cqrs_instance_data_check_owner(const CqrsRelation *relation,
							   const CqrsMaster *master)
{
	if (master->serializer == NULL ||
		cqrs_owns_relation(relation->relid, GetUserId()))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("must be owner of table %s", get_rel_name(relation->relid)),
			 errdetail("Master \"%s\" has a serializer, which reads with the rights of the owner.",
					   master->cqrs_id),
			 errhint("Have the owner or a superuser call the function.")));
}

void
cqrs_instance_data(Relation rel, const CqrsRelation *relation,
				   CqrsMaster *master, HeapTuple *rows, int nrows,
				   char **results)
{
	CqrsHookSubject subject = {relation, master, CQRS_SIGNAL_SYNC, NULL};
	StringInfoData buf;
	CqrsRow		row;

	if (nrows == 0)
		return;
	cqrs_row_init(&row, rel);
	if (master->serializer != NULL)
	{
		cqrs_row_set(&row, rel, rows[0]);
		initStringInfo(&buf);
		cqrs_serialize_key(&buf, rel, relation, &row);
		subject.key = buf.data;
		cqrs_instance_data_serialize(&subject, rel, rows, nrows, results);
		return;
	}
	for (int i = 0; i < nrows; i++)
	{
		cqrs_row_set(&row, rel, rows[i]);
		initStringInfo(&buf);
		cqrs_serialize_row(&buf, rel, master, &row);
		results[i] = buf.data;
	}
}

void
cqrs_instance_data_serialize(const CqrsHookSubject *subject, Relation rel,
							 HeapTuple *rows, int nrows, char **results)
{
	cqrs_hook_serialize(subject, rows, nrows, results);
	for (int i = 0; i < nrows; i++)
		results[i] = with_revision(rel, subject->relation, rows[i], results[i]);
}

/* django-cqrs calls the key "id", whatever the name of the column is. */
char *
cqrs_instance_data_deleted(const CqrsHookSubject *subject, HeapTuple row,
						   const CqrsRow *first, const CqrsRow *last)
{
	int			revision = subject->relation->revision - 1;
	int64		before = DatumGetInt32(first->values[revision]);
	int64		after = DatumGetInt32(last->values[revision]);
	char	   *custom = cqrs_hook_delete_data(subject, row);
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"id\":%s,\"cqrs_revision\":" INT64_FORMAT
					 ",\"cqrs_updated\":\"",
					 subject->key, Max(before + 1, after));
	cqrs_value_append_timestamptz(&buf, GetCurrentTimestamp());
	appendStringInfoChar(&buf, '"');
	if (custom != NULL)
		appendStringInfo(&buf, ",\"custom\":%s", custom);
	appendStringInfoChar(&buf, '}');
	return buf.data;
}

/* An object of a serializer with cqrs_revision and cqrs_updated at its end. */
static char *
with_revision(Relation rel, const CqrsRelation *relation, HeapTuple row,
			  const char *object)
{
	TupleDesc	desc = RelationGetDescr(rel);
	StringInfoData buf;
	bool		isnull;
	int			last = strlen(object) - 1;

	while (object[last] != '}')
		last--;
	do
		last--;
	while (isspace((unsigned char) object[last]));

	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, object, last + 1);
	appendStringInfo(&buf, "%s\"cqrs_revision\":%d,\"cqrs_updated\":\"",
					 object[last] == '{' ? "" : ",",
					 DatumGetInt32(heap_getattr(row, relation->revision, desc,
												&isnull)));
	cqrs_value_append_timestamptz(&buf,
								  DatumGetTimestampTz(heap_getattr(row,
																   relation->updated,
																   desc, &isnull)));
	appendStringInfoString(&buf, "\"}");
	return buf.data;
}
