/*-------------------------------------------------------------------------
 *
 * literals.c
 *	  Expressions that are analyzed without running the code of users.
 *
 * The parser reads a string literal as soon as it knows the literal's type, by
 * the input function of the type.  Input functions of arrays, rows and ranges
 * read their parts by the input functions of those, and that of a domain
 * evaluates its CHECK, which may be anything: functions of the domain's owner,
 * in any language, or pg_sleep() and cursor_to_xml().  A range can have a canonical
 * function in any language.  Nothing else that parse analysis does evaluates an
 * expression of a user: a domain itself is read as its base type, and its check
 * becomes a part of the expression.
 *
 * So literals are taken out before the analysis.  A literal becomes a
 * parameter, and the parser's hook makes a null constant of type "unknown" of
 * it, as the literal would have been but for its value: the parser resolves
 * types by types alone, and input functions are strict.  The constant is known
 * by its location, which says which literal it is, and which the parser hands
 * on to the constant of the type that it chooses.  After the analysis the value
 * is read, if no part of its type is a domain or such a range.  Otherwise the
 * constant becomes a cast of the literal's text, which is not evaluated.
 *
 * PostgreSQL's printed form of such a cast is that of the literal, so that the
 * printed expression has the same meaning and is analyzed in the same way.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_range.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/type_parts.h"
#include "define/function.h"
#include "master/literals.h"

/* The location of the first literal's constant; -1 is an unknown location. */
#define FIRST_LOCATION	(-2)

/* Literals, taken out of a raw expression. */
typedef struct Taken
{
	List	   *texts;			/* of literals, in the order of their numbers */
} Taken;

static bool take(Node *node, void *taken);
static Node *null_constant(ParseState *pstate, ParamRef *parameter);
static Node *put_back(Node *node, void *literals);
static Node *constant(const Const *null, const char *text);
static Const *unknown(const char *text);
static bool runs_users_code(Oid type, Oid arg);
static Oid	canonical_function(Oid range);

List *
cqrs_literals_take(ParseState *pstate, Node *raw)
{
	Taken		taken = {0};

	(void) take(raw, &taken);
	pstate->p_paramref_hook = null_constant;
	return taken.texts;
}

/* Tree walker: make string literals parameters of negative numbers. */
static bool
take(Node *node, void *context)
{
	Taken	   *taken = context;

	StaticAssertStmt(sizeof(ParamRef) <= sizeof(A_Const),
					 "a parameter takes the place of a literal");
	if (node == NULL)
		return false;
	/* Modifiers of types are read as they are, by no input function. */
	if (IsA(node, TypeName))
		return false;
	if (IsA(node, A_Const) && !castNode(A_Const, node)->isnull &&
		IsA(&castNode(A_Const, node)->val, String))
	{
		char	   *text = strVal(&castNode(A_Const, node)->val);
		ParamRef   *parameter = (ParamRef *) node;

		taken->texts = lappend(taken->texts, text);
		NodeSetTag(parameter, T_ParamRef);
		parameter->number = -list_length(taken->texts);
		parameter->location = -1;
		return false;
	}
	return raw_expression_tree_walker(node, take, context);
}

/* Hook of the parser: the constant of a literal; NULL for others' parameters. */
static Node *
null_constant(ParseState *pstate, ParamRef *parameter)
{
	Const	   *null;

	if (parameter->number >= 0)
		return NULL;
	null = unknown(NULL);
	null->location = FIRST_LOCATION + 1 + parameter->number;
	return (Node *) null;
}

Node *
cqrs_literals_put_back(Node *expression, List *literals)
{
	return put_back(expression, literals);
}

/* Tree mutator: replace the constants of literals. */
static Node *
put_back(Node *node, void *literals)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Const) && castNode(Const, node)->location <= FIRST_LOCATION)
		return constant(castNode(Const, node),
						list_nth(literals,
								 FIRST_LOCATION - castNode(Const, node)->location));
	return expression_tree_mutator(node, put_back, literals);
}

/*
 * A literal of the type of a null constant: its value, as coerce_type() reads
 * it, or a cast of its text.
 */
static Node *
constant(const Const *null, const char *text)
{
	Const	   *value;
	Oid			input;
	Oid			parameter;

	if (null->consttype == UNKNOWNOID)
		return (Node *) unknown(text);
	if (cqrs_type_parts_any(null->consttype, runs_users_code, InvalidOid))
	{
		CoerceViaIO *cast = makeNode(CoerceViaIO);

		cast->arg = (Expr *) unknown(text);
		cast->resulttype = null->consttype;
		cast->resultcollid = null->constcollid;
		cast->coerceformat = COERCE_EXPLICIT_CAST;
		cast->location = -1;
		return (Node *) cast;
	}
	value = copyObject(unconstify(Const *, null));
	getTypeInputInfo(value->consttype, &input, &parameter);
	value->constvalue = OidInputFunctionCall(input, pstrdup(text), parameter,
											 value->consttypmod);
	if (value->constlen == -1)
		value->constvalue = PointerGetDatum(PG_DETOAST_DATUM(value->constvalue));
	value->constisnull = false;
	value->location = -1;
	return (Node *) value;
}

/* A constant of type "unknown"; a null one for NULL. */
static Const *
unknown(const char *text)
{
	return makeConst(UNKNOWNOID, -1, InvalidOid, -2,
					 text == NULL ? (Datum) 0 : CStringGetDatum(pstrdup(text)),
					 text == NULL, false);
}

/*
 * For cqrs_type_parts_any(): whether the input function of a type runs code of
 * users, besides what the input functions of its parts do.
 */
static bool
runs_users_code(Oid type, Oid arg)
{
	switch (get_typtype(type))
	{
		case TYPTYPE_DOMAIN:
			return true;
		case TYPTYPE_RANGE:
			return cqrs_function_has_users_code(canonical_function(type));
		default:
			return false;
	}
}

/* The canonical function of a range type, or InvalidOid. */
static Oid
canonical_function(Oid range)
{
	HeapTuple	tuple = SearchSysCache1(RANGETYPE, ObjectIdGetDatum(range));
	Oid			result = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_range) GETSTRUCT(tuple))->rngcanonical;
		ReleaseSysCache(tuple);
	}
	return result;
}
