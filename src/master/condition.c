/*-------------------------------------------------------------------------
 *
 * condition.c
 *	  Boolean SQL expressions over the row of a table.
 *
 * There are two kinds.  The filter of a function is only parsed here, so that
 * it can be put between parentheses in a query.  sync_when of a master is
 * compiled and then evaluated row by row, under the rights and the settings that
 * hook.c has set.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "executor/executor.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "utils/guc.h"

#include "base/error_context.h"
#include "base/guc.h"
#include "master/condition.h"
#include "master/literals.h"

struct CqrsCondition
{
	ExprState  *state;
	ExprContext *econtext;
	TupleTableSlot *slot;
};

/* While an expression is parsed: the text that error positions refer to. */
typedef struct ParseContext
{
	ErrorContextCallback callback;
	const char *query;
	const char *what;
} ParseContext;

static Node *only_expression(List *statements);
static bool names_column(Node *node, void *column);
static void enter_parsing(ParseContext *context, const char *text,
						  const char *what);
static void leave_parsing(const ParseContext *context);
static void parse_error_context(void *arg);

Node *
cqrs_condition_parse(const char *text, const char *what)
{
	ParseContext context;
	Node	   *expression;

	enter_parsing(&context, text, what);
	expression = only_expression(raw_parser(context.query,
											RAW_PARSE_DEFAULT));
	leave_parsing(&context);

	if (expression == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("%s is not a boolean expression", what),
				 errdetail("The text is \"%s\".", text),
				 errhint("Write the expression as after WHERE, for example: id > 100 AND active.")));
	return expression;
}

bool
cqrs_condition_names_column(const char *text, const char *what,
							const char *column)
{
	int			level = NewGUCNestLevel();
	bool		result;

	/* How the text is read does not depend on the session (serialize.c). */
	cqrs_guc_pin("standard_conforming_strings", "on");
	cqrs_guc_pin("backslash_quote", "safe_encoding");
	result = names_column(cqrs_condition_parse(text, what),
						  unconstify(char *, column));
	AtEOXact_GUC(false, level);
	return result;
}

/* Tree walker: whether a parse tree names a column. */
static bool
names_column(Node *node, void *column)
{
	if (node == NULL)
		return false;
	if (IsA(node, ColumnRef))
	{
		Node	   *last = llast(castNode(ColumnRef, node)->fields);

		return IsA(last, String) && strcmp(strVal(last), column) == 0;
	}
	return raw_expression_tree_walker(node, names_column, column);
}

Node *
cqrs_condition_analyze(Relation rel, const char *text, const char *what,
					   bool runs_code)
{
	Node	   *raw = cqrs_condition_parse(text, what);
	ParseContext context;
	ParseState *pstate = make_parsestate(NULL);
	List	   *literals = NIL;
	Node	   *expression;

	enter_parsing(&context, text, what);

	/* As for a CHECK constraint: no subqueries and no aggregates. */
	pstate->p_sourcetext = context.query;
	addNSItemToQuery(pstate,
					 addRangeTableEntryForRelation(pstate, rel,
												   AccessShareLock, NULL,
												   false, true),
					 true, true, true);
	if (!runs_code)
		literals = cqrs_literals_take(pstate, raw);
	expression = transformExpr(pstate, raw, EXPR_KIND_CHECK_CONSTRAINT);
	expression = coerce_to_boolean(pstate, expression, what);
	assign_expr_collations(pstate, expression);
	if (!runs_code)
		expression = cqrs_literals_put_back(expression, literals);
	if (contain_volatile_functions(expression))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("%s contains a VOLATILE function", what),
				 errdetail("The condition is evaluated while a transaction commits, and must not change data."),
				 errhint("Declare the function STABLE or IMMUTABLE.")));
	leave_parsing(&context);
	free_parsestate(pstate);
	return expression;
}

CqrsCondition *
cqrs_condition_compile(Oid relid, TupleDesc desc, const char *text,
					   const char *what)
{
	CqrsCondition *condition = palloc(sizeof(CqrsCondition));
	Relation	rel = table_open(relid, AccessShareLock);
	Node	   *expression = cqrs_condition_analyze(rel, text, what, true);
	ParseContext context;

	/* Folding into constants evaluates functions, which may fail. */
	enter_parsing(&context, text, what);
	expression = (Node *) expression_planner((Expr *) expression);
	leave_parsing(&context);

	condition->state = ExecInitExpr((Expr *) expression, NULL);
	condition->econtext = CreateStandaloneExprContext();
	condition->slot = MakeSingleTupleTableSlot(desc, &TTSOpsHeapTuple);
	condition->econtext->ecxt_scantuple = condition->slot;
	table_close(rel, AccessShareLock);
	return condition;
}

bool
cqrs_condition_holds(CqrsCondition *condition, HeapTuple row)
{
	bool		isnull;
	Datum		result;

	ExecStoreHeapTuple(row, condition->slot, false);
	result = ExecEvalExprSwitchContext(condition->state, condition->econtext,
									   &isnull);
	ExecClearTuple(condition->slot);
	ResetExprContext(condition->econtext);
	return !isnull && DatumGetBool(result);
}

/* The one expression that "SELECT ..." consists of, or NULL. */
static Node *
only_expression(List *statements)
{
	SelectStmt *select;

	if (list_length(statements) != 1)
		return NULL;
	select = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
	if (!IsA(select, SelectStmt) || select->op != SETOP_NONE ||
		list_length(select->targetList) != 1 ||
		linitial_node(ResTarget, select->targetList)->name != NULL ||
		select->distinctClause != NIL || select->intoClause != NULL ||
		select->fromClause != NIL || select->whereClause != NULL ||
		select->groupClause != NIL || select->havingClause != NULL ||
		select->windowClause != NIL || select->sortClause != NIL ||
		select->limitCount != NULL || select->limitOffset != NULL ||
		select->lockingClause != NIL || select->withClause != NULL)
		return NULL;
	return linitial_node(ResTarget, select->targetList)->val;
}

/*
 * Until leave_parsing(), positions of errors refer to "text", which "what"
 * names.
 */
static void
enter_parsing(ParseContext *context, const char *text, const char *what)
{
	context->query = psprintf("SELECT %s\n", text);
	context->what = what;
	cqrs_error_context_push(&context->callback, parse_error_context, context);
}

static void
leave_parsing(const ParseContext *context)
{
	cqrs_error_context_pop(&context->callback);
}

/* Make an error position point into the expression, not the caller's query. */
static void
parse_error_context(void *arg)
{
	ParseContext *context = arg;
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(context->query);
	}
	errcontext("%s", context->what);
}
