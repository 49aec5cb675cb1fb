/*-------------------------------------------------------------------------
 *
 * keys.c
 *	  Primary keys as JSON, back to rows.
 *
 * Keys come as messages have them: a value, or an array where the primary key
 * has several columns.  They become rows of typed columns by jsonb_to_record(),
 * and find the table's rows by the equality of their types; so one query does
 * for many keys, and can use the index of the primary key.  Operators are named
 * with their schemas, since queries run with the caller's search_path.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "resend/keys.h"

static bool key_is_valid(const JsonbValue *key, int nkeys);
static Form_pg_attribute key_column(Relation rel, const CqrsRelation *relation,
									int i);
static Oid	safe_type(Oid type);
static bool is_plain_greater(Oid operator);
static void append_above(StringInfo out, Relation rel,
						 const CqrsRelation *relation, int i);
static void append_comparison(StringInfo out, const char *left,
							  Form_pg_attribute att, Oid operator,
							  const char *right);

bool
cqrs_keys_are_valid(const Jsonb *keys, const CqrsRelation *relation)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (!JB_ROOT_IS_ARRAY(keys) || JB_ROOT_IS_SCALAR(keys))
		return false;

	it = JsonbIteratorInit(unconstify(JsonbContainer *, &keys->root));
	(void) JsonbIteratorNext(&it, &value, false);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_ELEM && !key_is_valid(&value, relation->nkeys))
			return false;
	}
	return true;
}

static bool
key_is_valid(const JsonbValue *key, int nkeys)
{
	if (nkeys == 1)
		return key->type != jbvNull;

	if (key->type != jbvBinary || !JsonContainerIsArray(key->val.binary.data) ||
		JsonContainerSize(key->val.binary.data) != nkeys)
		return false;
	for (int i = 0; i < nkeys; i++)
	{
		if (getIthJsonbValueFromContainer(key->val.binary.data,
										  i)->type == jbvNull)
			return false;
	}
	return true;
}

char *
cqrs_keys_source(Relation rel, const CqrsRelation *relation)
{
	StringInfoData source;
	StringInfoData columns;

	initStringInfo(&source);
	initStringInfo(&columns);
	appendStringInfoString(&source, "pg_catalog.jsonb_array_elements($1) WITH ORDINALITY AS e(key, n), "
						   "LATERAL pg_catalog.jsonb_to_record(pg_catalog.jsonb_build_object(");
	for (int i = 0; i < relation->nkeys; i++)
	{
		Form_pg_attribute att = key_column(rel, relation, i);

		if (i > 0)
		{
			appendStringInfoString(&source, ", ");
			appendStringInfoString(&columns, ", ");
		}
		appendStringInfo(&source, "%s::pg_catalog.text, ",
						 quote_literal_cstr(NameStr(att->attname)));
		if (relation->nkeys == 1)
			appendStringInfoString(&source, "e.key");
		else
			appendStringInfo(&source, "e.key OPERATOR(pg_catalog.->) %d", i);

		/*
		 * Without its length, which would cut a key off, and without the
		 * functions of a domain, which would get the caller's rights.
		 */
		appendStringInfo(&columns, "%s %s",
						 quote_identifier(NameStr(att->attname)),
						 format_type_extended(safe_type(att->atttypid), -1,
											  FORMAT_TYPE_FORCE_QUALIFY));
		if (OidIsValid(att->attcollation))
			appendStringInfo(&columns, " COLLATE %s",
							 generate_collation_name(att->attcollation));
	}
	appendStringInfo(&source, ")) AS k(%s)", columns.data);
	return source.data;
}

/* The type to read a key as: of no part of it a user's function makes sure. */
static Oid
safe_type(Oid type)
{
	Oid			base = getBaseType(type);
	Oid			element = get_element_type(base);

	if (type_is_rowtype(base) ||
		((type_is_range(base) || type_is_multirange(base)) &&
		 base >= FirstNormalObjectId) ||
		(OidIsValid(element) && element != safe_type(element)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot find rows by keys of type %s",
						format_type_be(type)),
				 errdetail("To read such a key could call a user's function."),
				 errhint("Use cqrs_sync() with a filter.")));
	return base;
}

char *
cqrs_keys_condition(Relation rel, const CqrsRelation *relation)
{
	StringInfoData condition;

	initStringInfo(&condition);
	for (int i = 0; i < relation->nkeys; i++)
	{
		Form_pg_attribute att = key_column(rel, relation, i);
		const char *name = quote_identifier(NameStr(att->attname));

		if (i > 0)
			appendStringInfoString(&condition, " AND ");
		append_comparison(&condition, psprintf("r.%s", name), att,
						  lookup_type_cache(att->atttypid,
											TYPECACHE_EQ_OPR)->eq_opr,
						  psprintf("k.%s", name));
	}
	return condition.data;
}

char *
cqrs_keys_columns(const CqrsRelation *relation)
{
	StringInfoData columns;

	initStringInfo(&columns);
	for (int i = 0; i < relation->nkeys; i++)
		appendStringInfo(&columns, "%s%s", i > 0 ? ", " : "",
						 quote_identifier(relation->keys[i].column));
	return columns.data;
}

/*
 * A comparison of rows is what an index serves best, but it takes operators by
 * one name in one schema.  The other form is right for all of them, and reads
 * all rows with the same first column again.
 */
char *
cqrs_keys_above(Relation rel, const CqrsRelation *relation)
{
	StringInfoData condition;
	bool		plain = true;

	initStringInfo(&condition);
	for (int i = 0; i < relation->nkeys; i++)
	{
		Form_pg_attribute att = key_column(rel, relation, i);

		plain = plain && is_plain_greater(lookup_type_cache(att->atttypid,
															TYPECACHE_GT_OPR)->gt_opr);
	}

	if (relation->nkeys > 1 && plain)
	{
		appendStringInfo(&condition, "ROW(%s) OPERATOR(pg_catalog.>) ROW(",
						 cqrs_keys_columns(relation));
		for (int i = 0; i < relation->nkeys; i++)
			appendStringInfo(&condition, "%s$%d", i > 0 ? ", " : "", i + 1);
		appendStringInfoChar(&condition, ')');
	}
	else
		append_above(&condition, rel, relation, 0);
	return condition.data;
}

static bool
is_plain_greater(Oid operator)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;
	bool		plain;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_operator) GETSTRUCT(tuple);
	plain = form->oprnamespace == PG_CATALOG_NAMESPACE &&
		strcmp(NameStr(form->oprname), ">") == 0;
	ReleaseSysCache(tuple);
	return plain;
}

/* "a > $1", or "(a > $1 OR (a = $1 AND (b > $2 ...)))" with "a >= $1". */
static void
append_above(StringInfo out, Relation rel, const CqrsRelation *relation, int i)
{
	Form_pg_attribute att = key_column(rel, relation, i);
	const char *column = quote_identifier(NameStr(att->attname));
	const char *parameter = psprintf("$%d", i + 1);
	TypeCacheEntry *type = lookup_type_cache(att->atttypid,
											 TYPECACHE_EQ_OPR | TYPECACHE_LT_OPR | TYPECACHE_GT_OPR);
	bool		last = i == relation->nkeys - 1;

	if (!last)
	{
		appendStringInfoString(out, "(NOT ");
		append_comparison(out, column, att, type->lt_opr, parameter);
		appendStringInfoString(out, " AND (");
	}
	append_comparison(out, column, att, type->gt_opr, parameter);
	if (!last)
	{
		appendStringInfoString(out, " OR (");
		append_comparison(out, column, att, type->eq_opr, parameter);
		appendStringInfoString(out, " AND ");
		append_above(out, rel, relation, i + 1);
		appendStringInfoString(out, ")))");
	}
}

static void
append_comparison(StringInfo out, const char *left, Form_pg_attribute att,
				  Oid operator, const char *right)
{
	generate_operator_clause(out, left, att->atttypid, operator, right,
							 att->atttypid);
}

static Form_pg_attribute
key_column(Relation rel, const CqrsRelation *relation, int i)
{
	return TupleDescAttr(RelationGetDescr(rel), relation->keys[i].attnum - 1);
}
