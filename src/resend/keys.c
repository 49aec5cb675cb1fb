/*-------------------------------------------------------------------------
 *
 * keys.c
 *	  Primary keys as JSON, back to rows.
 *
 * Keys have the form that they have in messages: a value, or an array if the
 * primary key has several columns.  They become rows of typed columns, which a
 * query reads like a transition table and compares with the table's rows by
 * operators of their types.  So one query serves many keys, and can use the
 * index of the primary key.  Operators are named with their schemas, since
 * queries run with the caller's search_path.
 *
 * If different values can have the same JSON (key_value.c), the rows of all
 * these values are found.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "base/compat.h"
#include "compose/key_type.h"
#include "compose/key_value.h"
#include "resend/keys.h"

/* The name of the keys in queries. */
#define KEYS_NAME	"cqrs_keys"

/* Columns of the keys: the key and its number, and three per key column. */
#define COLUMNS_OF_KEY		2
#define COLUMNS_PER_COLUMN	3

static bool value_is_valid(const JsonbValue *value, Oid type);
static Form_pg_attribute key_column(Relation rel, const CqrsRelation *relation,
									int i);
static TupleDesc describe_keys(Relation rel, const CqrsRelation *relation);
static void put_key(Tuplestorestate *store, TupleDesc desc, int nkeys,
					const JsonbValue *key, int64 number);
static char *row_column(Form_pg_attribute att);
static void append_equal(StringInfo out, Form_pg_attribute att, int i);
static void append_between(StringInfo out, Form_pg_attribute att, int i);
static bool is_plain_greater(Oid operator);
static void append_above(StringInfo out, Relation rel,
						 const CqrsRelation *relation, int i);
static void append_not_below(StringInfo out, const char *left,
							 Form_pg_attribute att, const char *right);
static void append_comparison(StringInfo out, const char *left,
							  Form_pg_attribute att, Oid operator,
							  const char *right);
static char *type_name(Oid type);

bool
cqrs_keys_are_valid(const Jsonb *keys, Relation rel,
					const CqrsRelation *relation)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	key;
	Oid			type = key_column(rel, relation, 0)->atttypid;

	if (!JB_ROOT_IS_ARRAY(keys) || JB_ROOT_IS_SCALAR(keys))
		return false;

	it = JsonbIteratorInit(unconstify(JsonbContainer *, &keys->root));
	(void) JsonbIteratorNext(&it, &key, false);
	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (relation->nkeys == 1)
		{
			if (!value_is_valid(&key, type))
				return false;
			continue;
		}
		if (key.type != jbvBinary ||
			!JsonContainerIsArray(key.val.binary.data) ||
			JsonContainerSize(key.val.binary.data) != relation->nkeys)
			return false;
		for (int i = 0; i < relation->nkeys; i++)
		{
			if (!value_is_valid(getIthJsonbValueFromContainer(key.val.binary.data,
															  i),
								key_column(rel, relation, i)->atttypid))
				return false;
		}
	}
	return true;
}

/* Columns of a primary key are not null, but can be the JSON null. */
static bool
value_is_valid(const JsonbValue *value, Oid type)
{
	return value->type != jbvNull || getBaseType(type) == JSONBOID;
}

QueryEnvironment *
cqrs_keys_offer(const Jsonb *keys, Relation rel, const CqrsRelation *relation)
{
	QueryEnvironment *env = create_queryEnv();
	EphemeralNamedRelation source = palloc0(sizeof(EphemeralNamedRelationData));
	TupleDesc	desc;
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cqrs key",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller;
	uint32		number = JsonContainerSize(&keys->root);

	cqrs_key_type_check(rel, relation);
	desc = describe_keys(rel, relation);
	for (uint32 i = 0; i < number; i++)
	{
		CHECK_FOR_INTERRUPTS();
		caller = MemoryContextSwitchTo(context);
		put_key(store, desc, relation->nkeys,
				getIthJsonbValueFromContainer(unconstify(JsonbContainer *,
														 &keys->root), i),
				i + 1);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);

	source->md.name = KEYS_NAME;
	source->md.tupdesc = desc;
	source->md.enrtype = ENR_NAMED_TUPLESTORE;
	source->md.enrtuples = number;
	source->reldata = store;
	register_ENR(env, source);
	return env;
}

void
cqrs_keys_withdraw(QueryEnvironment *env)
{
	tuplestore_end(get_ENR(env, KEYS_NAME)->reldata);
	unregister_ENR(env, KEYS_NAME);
	pfree(env);
}

/*
 * The columns of the relation of keys: the JSON, a number, and of each column
 * of the primary key the value, the lowest and the highest one with the same
 * JSON.
 */
static TupleDesc
describe_keys(Relation rel, const CqrsRelation *relation)
{
	static const char *const names[COLUMNS_PER_COLUMN] =
	{"value%d", "lowest%d", "highest%d"};
	TupleDesc	desc = CreateTemplateTupleDesc(COLUMNS_OF_KEY +
											   COLUMNS_PER_COLUMN * relation->nkeys);
	AttrNumber	column = 0;

	TupleDescInitEntry(desc, ++column, "key", JSONBOID, -1, 0);
	TupleDescInitEntry(desc, ++column, "n", INT8OID, -1, 0);
	for (int i = 0; i < relation->nkeys; i++)
	{
		Form_pg_attribute att = key_column(rel, relation, i);

		for (int j = 0; j < COLUMNS_PER_COLUMN; j++)
		{
			TupleDescInitEntry(desc, ++column, psprintf(names[j], i),
							   getBaseType(att->atttypid), -1, 0);
			TupleDescInitEntryCollation(desc, column, att->attcollation);
		}
	}
	cqrs_finish_tuple_desc(desc);
	return desc;
}

/* Add a key to the relation of keys. */
static void
put_key(Tuplestorestate *store, TupleDesc desc, int nkeys,
		const JsonbValue *key, int64 number)
{
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc0(sizeof(bool) * desc->natts);

	values[0] = JsonbPGetDatum(JsonbValueToJsonb(unconstify(JsonbValue *, key)));
	values[1] = Int64GetDatum(number);
	for (int i = 0; i < nkeys; i++)
	{
		int			column = COLUMNS_OF_KEY + COLUMNS_PER_COLUMN * i;
		Oid			type = TupleDescAttr(desc, column)->atttypid;
		const JsonbValue *value = nkeys == 1 ? key :
		getIthJsonbValueFromContainer(key->val.binary.data, i);

		values[column] = cqrs_key_value_read(value, type, &nulls[column]);
		values[column + 1] = cqrs_key_value_lowest(values[column], type);
		values[column + 2] = cqrs_key_value_highest(values[column], type);
	}
	tuplestore_putvalues(store, desc, values, nulls);
}

char *
cqrs_keys_condition(Relation rel, const CqrsRelation *relation)
{
	StringInfoData condition;

	initStringInfo(&condition);
	for (int i = 0; i < relation->nkeys; i++)
	{
		Form_pg_attribute att = key_column(rel, relation, i);

		if (i > 0)
			appendStringInfoString(&condition, " AND ");
		if (cqrs_key_value_is_shared(att->atttypid))
			append_between(&condition, att, i);
		else
			append_equal(&condition, att, i);
	}
	return condition.data;
}

/*
 * The row with the value of the key.  The planner of some minor releases (15.18)
 * believes that all ranges can be hashed, which is an error if the bounds cannot:
 * so equality is expressed by comparisons, which the index serves as well.
 */
static void
append_equal(StringInfo out, Form_pg_attribute att, int i)
{
	const char *column = row_column(att);
	const char *value = psprintf("k.value%d", i);
	Oid			base = getBaseType(att->atttypid);
	TypeCacheEntry *type = lookup_type_cache(base, TYPECACHE_EQ_OPR |
											 TYPECACHE_HASH_PROC);

	if (OidIsValid(type->hash_proc) || !op_hashjoinable(type->eq_opr, base))
	{
		append_comparison(out, column, att, type->eq_opr, value);
		return;
	}
	append_not_below(out, column, att, value);
	appendStringInfoString(out, " AND ");
	append_not_below(out, value, att, column);
}

/* A column of the row as SQL, palloc'd. */
static char *
row_column(Form_pg_attribute att)
{
	return psprintf("r.%s", quote_identifier(NameStr(att->attname)));
}

/*
 * The rows in the range of values that have the same JSON: those whose value
 * has this JSON, and those whose value is equal, since a collation may take
 * different texts for equal.
 */
static void
append_between(StringInfo out, Form_pg_attribute att, int i)
{
	const char *column = row_column(att);

	append_not_below(out, column, att, psprintf("k.lowest%d", i));
	appendStringInfoString(out, " AND ");
	append_not_below(out, psprintf("k.highest%d", i), att, column);
	appendStringInfoString(out, " AND (");
	append_equal(out, att, i);
	appendStringInfo(out, " OR cqrs.key_json(%s) OPERATOR(pg_catalog.=) cqrs.key_json(k.value%d))",
					 column, i);
}

char *
cqrs_keys_lowest(const CqrsRelation *relation)
{
	StringInfoData columns;

	initStringInfo(&columns);
	for (int i = 0; i < relation->nkeys; i++)
		appendStringInfo(&columns, "%sk.lowest%d", i > 0 ? ", " : "", i);
	return columns.data;
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
 * A row comparison uses an index best, but its operators must have one name in
 * one schema.  The other form works for all operators, but reads all rows with
 * the same first column again.
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

/* Whether an operator is ">" of pg_catalog. */
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
											 TYPECACHE_EQ_OPR | TYPECACHE_GT_OPR);
	bool		last = i == relation->nkeys - 1;

	if (!last)
	{
		appendStringInfoChar(out, '(');
		append_not_below(out, column, att, parameter);
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

/* "left >= right", as NOT "<": the planner knows the negator of "<". */
static void
append_not_below(StringInfo out, const char *left, Form_pg_attribute att,
				 const char *right)
{
	appendStringInfoString(out, "NOT ");
	append_comparison(out, left, att,
					  lookup_type_cache(att->atttypid, TYPECACHE_LT_OPR)->lt_opr,
					  right);
}

/*
 * Cast both sides to the operator's input types.  generate_operator_clause()
 * would cast to anyarray, too, which is an error if the column has a length.
 */
static void
append_comparison(StringInfo out, const char *left, Form_pg_attribute att,
				  Oid operator, const char *right)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;
	Oid			type;
	const char *cast = "";

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	type = IsPolymorphicType(form->oprleft) || form->oprleft == RECORDOID ?
		getBaseType(att->atttypid) : form->oprleft;
	if (type != att->atttypid || att->atttypmod != -1)
		cast = psprintf("::%s", type_name(type));
	appendStringInfo(out, "%s%s OPERATOR(%s.%s) %s%s", left, cast,
					 quote_identifier(get_namespace_name(form->oprnamespace)),
					 NameStr(form->oprname), right, cast);
	ReleaseSysCache(tuple);
}

/* The type without its length, which is 1 by default for some types. */
static char *
type_name(Oid type)
{
	return format_type_extended(type, -1,
								FORMAT_TYPE_TYPEMOD_GIVEN |
								FORMAT_TYPE_FORCE_QUALIFY);
}

static Form_pg_attribute
key_column(Relation rel, const CqrsRelation *relation, int i)
{
	return TupleDescAttr(RelationGetDescr(rel), relation->keys[i].attnum - 1);
}
