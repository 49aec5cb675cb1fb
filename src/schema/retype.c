/*-------------------------------------------------------------------------
 *
 * retype.c
 *	  Whether a change of types changes stored values.
 *
 * ALTER TABLE ... TYPE computes each value anew by an expression, the implicit
 * cast or that of USING.  If the simplified expression is nothing but the
 * column, PostgreSQL does not rewrite the table.  The same test shows here
 * whether values may change.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_attribute.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/primnodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_relation.h"
#include "parser/parse_type.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "schema/retype.h"

static bool is_column(ParseState *pstate, Node *expression, Oid type,
					  int32 typmod, AttrNumber attnum);
static bool row_contains(Oid relid, Oid part);

bool
cqrs_retype_keeps_values(Oid type, int32 old_typmod, int32 new_typmod)
{
	ParseState *pstate = make_parsestate(NULL);
	Node	   *column = (Node *) makeVar(1, 1, type, old_typmod,
										  get_typcollation(type), 0);
	bool		result = is_column(pstate, column, type, new_typmod, 1);

	free_parsestate(pstate);
	return result;
}

bool
cqrs_retype_using_keeps_values(Oid relid, AttrNumber attnum,
							   const ColumnDef *definition)
{
	ParseState *pstate = make_parsestate(NULL);
	Relation	rel = table_open(relid, AccessShareLock);
	Oid			type;
	int32		typmod;
	Node	   *expression;
	bool		result;

	typenameTypeIdAndMod(pstate, definition->typeName, &type, &typmod);
	addNSItemToQuery(pstate,
					 addRangeTableEntryForRelation(pstate, rel,
												   AccessShareLock, NULL,
												   false, true),
					 false, true, true);
	expression = transformExpr(pstate, copyObject(definition->raw_default),
							   EXPR_KIND_ALTER_COL_TRANSFORM);
	result = is_column(pstate, expression, type, typmod, attnum);
	free_parsestate(pstate);
	table_close(rel, AccessShareLock);
	return result;
}

/* Whether an expression, cast to a type, is nothing but a column. */
static bool
is_column(ParseState *pstate, Node *expression, Oid type, int32 typmod,
		  AttrNumber attnum)
{
	expression = coerce_to_target_type(pstate, expression,
									   exprType(expression), type, typmod,
									   COERCION_ASSIGNMENT,
									   COERCE_IMPLICIT_CAST, -1);
	/* The command will fail. */
	if (expression == NULL)
		return true;
	assign_expr_collations(pstate, expression);
	expression = (Node *) expression_planner((Expr *) expression);
	while (IsA(expression, RelabelType))
		expression = (Node *) castNode(RelabelType, expression)->arg;
	return IsA(expression, Var) &&
		castNode(Var, expression)->varattno == attnum;
}

bool
cqrs_retype_contains(Oid type, Oid part)
{
	Oid			element;
	Oid			relid;

	check_stack_depth();
	type = getBaseType(type);
	if (type == part)
		return true;
	element = get_element_type(type);
	if (!OidIsValid(element))
		element = get_range_subtype(type);
	if (!OidIsValid(element))
		element = get_range_subtype(get_multirange_range(type));
	if (OidIsValid(element))
		return cqrs_retype_contains(element, part);
	relid = get_typ_typrelid(type);
	return OidIsValid(relid) && row_contains(relid, part);
}

/* Whether an attribute of a row type contains a type. */
static bool
row_contains(Oid relid, Oid part)
{
	HeapTuple	tuple;
	AttrNumber	attnum = 0;

	while (HeapTupleIsValid(tuple = SearchSysCache2(ATTNUM,
													ObjectIdGetDatum(relid),
													Int16GetDatum(++attnum))))
	{
		Form_pg_attribute attribute = (Form_pg_attribute) GETSTRUCT(tuple);
		Oid			type = attribute->attisdropped ? InvalidOid :
		attribute->atttypid;

		ReleaseSysCache(tuple);
		if (OidIsValid(type) && cqrs_retype_contains(type, part))
			return true;
	}
	return false;
}
