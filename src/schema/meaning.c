/*-------------------------------------------------------------------------
 *
 * meaning.c
 *	  Keeps the meaning of sync_when through changes of the schema.
 *
 * sync_when is stored as text, so that a dump restores it, and each session
 * looks up its names.  Its meaning is the expression that the parser makes of
 * the text.  The text is parsed before a command and again after it (ddl.c).
 * If the two expressions differ, or the text can no longer be parsed, the text
 * is written anew from the first expression with the current names, as
 * PostgreSQL prints the expression of a CHECK constraint.  So renamed columns,
 * tables, schemas, functions, types and enum labels are followed, and a new
 * function does not replace another one.  If that fails, the command has
 * dropped something that the expression needs, or has made a function
 * VOLATILE, and is refused.
 *
 * An expression that fails before the command already is ignored: a dump is
 * restored piece by piece.
 *
 * The parser needs a lock on the master's table.  The lock is taken only if it
 * is free, and released at once, because a command on other objects must not
 * wait for that table or keep a lock on it.  If the lock is not free, another
 * transaction is changing the table, and its master is skipped.
 *
 * All of this runs in the sessions of roles that need not trust the owner of the
 * master's table: for commands on other objects, and for superusers' commands.
 * So it runs no code of users.  Otherwise the owner's code could fail or wait,
 * which would keep everybody from changing the schema, and could read the cursors
 * of the session, which a restricted security context does not prevent.  The
 * texts are analyzed without reading those literals that users' code would read
 * (literals.c); analysis evaluates nothing else of an expression.  It can load
 * the checks of a domain into PostgreSQL's cache of types (JSON_VALUE with a
 * domain after RETURNING), which folds calls of IMMUTABLE functions.  So besides,
 * users' functions are refused while this runs, and then the master is skipped:
 * not the command, or the owner could have it refused.  PostgreSQL asks a hook of
 * ours whenever it prepares the call of a function that is not its own, and calls
 * another one of ours when a function runs that is SECURITY DEFINER or has settings.
 * Functions in C are not refused, since only superusers create them.
 *
 * What such a literal says is not followed: a command that changes how it has to be
 * written is refused.
 *
 * Errors of the classes "insufficient resources" and "operator intervention" are
 * therefore the server's and are not ignored.
 *
 * Names are looked up under the search_path that sync_when is evaluated under,
 * and with the owner's rights, so that what the owner must not use is found
 * neither here nor there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/nodeFuncs.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/caught.h"
#include "base/type_parts.h"
#include "compose/hook.h"
#include "define/function.h"
#include "master/condition.h"
#include "master/master.h"
#include "schema/meaning.h"

struct CqrsMeaning
{
	char	   *cqrs_id;
	char	   *text;
	Node	   *expression;
};

/* What an expression refers to. */
typedef struct References
{
	List	   *columns;		/* numbers */
	List	   *attributes;		/* numbers, of composite values */
	List	   *functions;		/* oids, also of operators and casts */
} References;

typedef Node *(*Work) (Relation rel, void *arg);

/* Work that may fail. */
typedef struct Trial
{
	Work		work;
	Oid			relid;
	void	   *arg;			/* of "work" */
	Node	   *result;
} Trial;

/* Whether users' functions are refused now, and whether one was. */
static bool refuses_functions = false;
static bool has_refused = false;
static needs_fmgr_hook_type next_needs_hook = NULL;
static fmgr_hook_type next_hook = NULL;

static void refuse_function(Oid function);
static bool needs_hook(Oid function);
static void around_call(FmgrHookEventType event, FmgrInfo *function,
						Datum *state);
static bool try_to(Work work, Oid relid, void *arg, Node **result,
				   const char **error);
static void work_as_owner(void *arg);
static Node *parse(Relation rel, void *text);
static Node *print(Relation rel, void *expression);
static bool forget_lengths(Node *node, void *context);
static void check_texts(const CqrsMeaning *before, Oid type);
static bool has_text_of(Node *node, void *type);
static bool refer_to_same(Node *a, Node *b);
static bool collect(Node *node, void *references);
static bool collect_function(Oid function, void *references);

void
cqrs_meaning_init(void)
{
	next_needs_hook = needs_fmgr_hook;
	needs_fmgr_hook = needs_hook;
	next_hook = fmgr_hook;
	fmgr_hook = around_call;
}

/* Raise an error if users' functions are refused now, and the function is one. */
static void
refuse_function(Oid function)
{
	if (!refuses_functions || !cqrs_function_has_users_code(function))
		return;
	has_refused = true;
	elog(ERROR, "function with OID %u is not called for sync_when", function);
}

/*
 * Hook, called before a function is prepared to be called or inlined: whether
 * fmgr_hook is to be called around its calls.
 */
static bool
needs_hook(Oid function)
{
	refuse_function(function);
	return next_needs_hook != NULL && next_needs_hook(function);
}

/*
 * fmgr_hook, called around the calls of functions that are SECURITY DEFINER or
 * have settings.  PostgreSQL does not ask needs_hook() for these.
 */
static void
around_call(FmgrHookEventType event, FmgrInfo *function, Datum *state)
{
	if (event == FHET_START)
		refuse_function(function->fn_oid);
	if (next_hook != NULL)
		next_hook(event, function, state);
}

List *
cqrs_meaning_read(List *rows)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, rows)
	{
		CqrsMasterRow *row = lfirst(lc);
		char	   *text = cqrs_master_text(row, CQRS_OPTION_SYNC_WHEN);
		CqrsMeaning *meaning;
		Node	   *expression;
		const char *error;

		if (text == NULL ||
			!try_to(parse, row->relid, text, &expression, &error) ||
			expression == NULL)
			continue;
		meaning = palloc(sizeof(CqrsMeaning));
		meaning->cqrs_id = row->cqrs_id;
		meaning->text = text;

		meaning->expression = expression;
		result = lappend(result, meaning);
	}
	return result;
}

void
cqrs_meaning_check(const CqrsMeaning *before, Oid respelled)
{
	CqrsMasterRow *row = cqrs_master_read(before->cqrs_id, true);
	char	   *text = row == NULL ? NULL :
	cqrs_master_text(row, CQRS_OPTION_SYNC_WHEN);
	Node	   *expression;
	Node	   *printed;
	const char *failure = NULL;
	const char *error;

	if (text == NULL || strcmp(text, before->text) != 0)
		return;
	if (OidIsValid(respelled))
		check_texts(before, respelled);
	if (!try_to(parse, row->relid, text, &expression, &failure) ||
		(expression != NULL && equal(expression, before->expression)) ||
		!try_to(print, row->relid, before->expression, &printed, &error))
		return;

	if (printed != NULL)
	{
		text = strVal(printed);

		if (!try_to(parse, row->relid, text, &expression, &error))
			return;
		if (expression != NULL &&
			refer_to_same(expression, before->expression))
		{
			row->options[CQRS_OPTION_SYNC_WHEN].value =
				CStringGetTextDatum(text);
			cqrs_master_update(row);
			CacheInvalidateRelcacheByRelid(row->relid);
			CommandCounterIncrement();
			return;
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot change objects that sync_when of master \"%s\" depends on",
					row->cqrs_id),
			 failure == NULL ?
			 errdetail("After the command, sync_when would have another meaning.") :
			 errdetail("After the command, sync_when would raise the error: %s.",
					   failure),
			 errhint("Use cqrs_alter() to set \"sync_when\" to null before the command, and to a condition again after it.")));
}

/*
 * Raise an error if the text of a literal that is not read (literals.c) has values
 * of a type that are written otherwise now: the text cannot be followed.
 */
static void
check_texts(const CqrsMeaning *before, Oid type)
{
	if (!has_text_of(before->expression, &type))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot change the values of type %s", format_type_be(type)),
			 errdetail("A literal in sync_when of master \"%s\" has such values beside those of a domain.",
					   before->cqrs_id),
			 errhint("Use cqrs_alter() to set \"sync_when\" to null before the command, and to a condition again after it.")));
}

/* Tree walker: whether a text that is cast has values of a type. */
static bool
has_text_of(Node *node, void *type)
{
	if (node == NULL)
		return false;
	if (IsA(node, CoerceViaIO) &&
		IsA(castNode(CoerceViaIO, node)->arg, Const) &&
		exprType((Node *) castNode(CoerceViaIO, node)->arg) == UNKNOWNOID &&
		cqrs_type_parts_have(castNode(CoerceViaIO, node)->resulttype,
							 *(Oid *) type))
		return true;
	return expression_tree_walker(node, has_text_of, type);
}

List *
cqrs_meaning_functions(const CqrsMasterRow *row)
{
	char	   *text = cqrs_master_text(row, CQRS_OPTION_SYNC_WHEN);
	References	found = {0};
	Node	   *expression;
	const char *error;

	if (text != NULL && try_to(parse, row->relid, text, &expression, &error))
		(void) collect(expression, &found);
	return found.functions;
}

/*
 * Do work that may fail.  False if the table is gone, is being changed by
 * another transaction, or if the work would need a function of users.  Otherwise
 * *result is set: NULL if the work has failed, with the reason in *error.
 */
static bool
try_to(Work work, Oid relid, void *arg, Node **result, const char **error)
{
	Trial		trial = {.work = work,.relid = relid,.arg = arg};
	ErrorData  *volatile failure = NULL;

	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		return false;
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
	{
		UnlockRelationOid(relid, AccessShareLock);
		return false;
	}

	has_refused = false;
	refuses_functions = true;
	PG_TRY();
	{
		failure = cqrs_caught_run(work_as_owner, &trial);
	}
	PG_FINALLY();
	{
		refuses_functions = false;
	}
	PG_END_TRY();
	if (failure == NULL)
		*result = trial.result;
	else
	{
		int			category = ERRCODE_TO_CATEGORY(failure->sqlerrcode);

		if (category == ERRCODE_OPERATOR_INTERVENTION ||
			category == ERRCODE_INSUFFICIENT_RESOURCES)
			ReThrowError(failure);
		*result = NULL;
		*error = failure->message;
	}
	UnlockRelationOid(relid, AccessShareLock);
	return !has_refused;
}

/*
 * Do work with the rights and the search_path under which sync_when is
 * evaluated.
 */
static void
work_as_owner(void *arg)
{
	Trial	   *trial = arg;
	Relation	rel = table_open(trial->relid, NoLock);
	CqrsRelation relation = {.owner = rel->rd_rel->relowner};
	CqrsHookScope scope;

	PushActiveSnapshot(GetLatestSnapshot());
	cqrs_hook_enter_as_owner(&scope, &relation);
	trial->result = trial->work(rel, trial->arg);
	cqrs_hook_leave(&scope);
	PopActiveSnapshot();
	table_close(rel, NoLock);
}

/*
 * Work: the expression that the parser makes of a text, without the lengths of
 * columns.
 */
static Node *
parse(Relation rel, void *text)
{
	Node	   *expression = cqrs_condition_analyze(rel, text, "sync_when",
													false);

	(void) forget_lengths(expression, NULL);
	return expression;
}

/* The text of an expression, as a String node. */
static Node *
print(Relation rel, void *expression)
{
	List	   *context = deparse_context_for(RelationGetRelationName(rel),
											  RelationGetRelid(rel));

	return (Node *) makeString(deparse_expression(expression, context, false,
												  true));
}

/* A column means the same if only its length or precision has changed. */
static bool
forget_lengths(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
		castNode(Var, node)->vartypmod = -1;
	return expression_tree_walker(node, forget_lengths, context);
}

/*
 * Whether two expressions refer to the same objects.  They need not be equal:
 * the printed text may have casts at other places.
 */
static bool
refer_to_same(Node *a, Node *b)
{
	References	of_a = {0};
	References	of_b = {0};

	(void) collect(a, &of_a);
	(void) collect(b, &of_b);
	return list_difference_int(of_a.columns, of_b.columns) == NIL &&
		list_difference_int(of_b.columns, of_a.columns) == NIL &&
		list_difference_int(of_a.attributes, of_b.attributes) == NIL &&
		list_difference_int(of_b.attributes, of_a.attributes) == NIL &&
		list_difference_oid(of_a.functions, of_b.functions) == NIL &&
		list_difference_oid(of_b.functions, of_a.functions) == NIL;
}

/* Tree walker: collect what an expression refers to. */
static bool
collect(Node *node, void *references)
{
	References *found = references;

	if (node == NULL)
		return false;
	if (IsA(node, Var))
		found->columns = list_append_unique_int(found->columns,
												castNode(Var, node)->varattno);
	else if (IsA(node, FieldSelect))
		found->attributes = list_append_unique_int(found->attributes,
												   castNode(FieldSelect, node)->fieldnum);
	(void) check_functions_in_node(node, collect_function, references);
	return expression_tree_walker(node, collect, references);
}

/* For check_functions_in_node(): note a function, and go on. */
static bool
collect_function(Oid function, void *references)
{
	References *found = references;

	found->functions = list_append_unique_oid(found->functions, function);
	return false;
}
