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

#include "access/table.h"
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
#include "utils/typcache.h"

#include "schema/retype.h"

static bool is_column(ParseState *pstate, Node *expression, Oid type,
					  int32 typmod, AttrNumber attnum);

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
