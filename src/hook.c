/*-------------------------------------------------------------------------
 *
 * hook.c
 *	  Functions of the user's that take part in making messages.
 *
 * They run while the transaction commits, under its active snapshot, with the
 * rights of the table's owner and search_path "pg_catalog, pg_temp": a writer
 * with fewer rights gains nothing by what they do, and objects of its own are
 * not found by them.  They have to be STABLE or IMMUTABLE, so that PostgreSQL
 * itself refuses writes in them: triggers queued this late would never fire.
 * An error in one fails the transaction, with a context line that names the
 * function and the message.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "guc.h"
#include "hook.h"

/* AMQP 0-9-1: the property correlation-id is a short string. */
#define CORRELATION_ID_BYTES	255

typedef struct HookContext
{
	const char *function;
	const CqrsMessage *message;
} HookContext;

static Oid	find_function(const char *name, const char *role, int nargs,
						  const Oid *argtypes, Oid result, Oid caller);
static Datum call_as_owner(Relation rel, const char *name, Oid function,
						   const CqrsMessage *message, NullableDatum *args,
						   int nargs, bool *isnull);
static void error_context(void *arg);
static NullableDatum text_arg(const char *text);
static NullableDatum jsonb_arg(const char *json);
static char *json_to_text(const char *json);

Oid
cqrs_hook_find_meta(Oid relid, const char *name, Oid caller)
{
	Oid			argtypes[] = {get_rel_type_id(relid), TEXTOID, JSONBOID, JSONBOID};

	return find_function(name, "meta function", lengthof(argtypes), argtypes,
						 JSONBOID, caller);
}

bool
cqrs_hook_any(const CqrsRelation *relation)
{
	ListCell   *lc;

	if (cqrs_meta_function[0] != '\0' || cqrs_correlation_function[0] != '\0')
		return true;
	foreach(lc, relation->masters)
	{
		if (((CqrsMaster *) lfirst(lc))->meta != NULL)
			return true;
	}
	return false;
}

char *
cqrs_hook_qualified_name(Oid function)
{
	return quote_qualified_identifier(get_namespace_name(get_func_namespace(function)),
									  get_func_name(function));
}

char *
cqrs_hook_meta(Relation rel, CqrsMaster *master, const CqrsRow *row,
			   const CqrsMessage *message)
{
	NullableDatum args[4];
	const char *name;
	Oid			function;
	Datum		meta;
	bool		isnull;

	args[1] = text_arg(cqrs_signal_name(message->signal));
	args[2] = jsonb_arg(message->instance_data);
	args[3] = jsonb_arg(message->previous_data);
	if (master->meta != NULL)
	{
		name = master->meta;
		function = cqrs_hook_find_meta(master->relid, name,
									   rel->rd_rel->relowner);
		args[0].value = heap_copy_tuple_as_datum(row->tuple,
												 RelationGetDescr(rel));
		args[0].isnull = false;
	}
	else
	{
		Oid			argtypes[] = {TEXTOID, TEXTOID, JSONBOID, JSONBOID};

		name = cqrs_meta_function;
		function = find_function(name, "function of \"cqrs.meta_function\"",
								 lengthof(argtypes), argtypes, JSONBOID,
								 rel->rd_rel->relowner);
		args[0] = text_arg(message->cqrs_id);
	}

	meta = call_as_owner(rel, name, function, message, args, lengthof(args),
						 &isnull);
	if (isnull)
		return NULL;
	return JsonbToCString(NULL, &DatumGetJsonbP(meta)->root, -1);
}

char *
cqrs_hook_correlation_id(Relation rel, const CqrsMessage *message)
{
	Oid			argtypes[] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	NullableDatum args[4];
	Oid			function;
	Datum		result;
	bool		isnull;
	char	   *correlation_id;

	if (cqrs_correlation_id[0] != '\0')
		return cqrs_correlation_id;
	if (cqrs_correlation_function[0] == '\0')
		return NULL;

	function = find_function(cqrs_correlation_function,
							 "function of \"cqrs.correlation_function\"",
							 lengthof(argtypes), argtypes, TEXTOID,
							 rel->rd_rel->relowner);
	args[0] = text_arg(cqrs_signal_name(message->signal));
	args[1] = text_arg(message->cqrs_id);
	args[2] = text_arg(json_to_text(message->instance_pk));
	args[3] = text_arg(message->queue);
	result = call_as_owner(rel, cqrs_correlation_function, function, message,
						   args, lengthof(args), &isnull);
	if (isnull)
		return NULL;

	correlation_id = TextDatumGetCString(result);
	if (strlen(correlation_id) > CORRELATION_ID_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("correlation id from function %s is too long",
						cqrs_correlation_function),
				 errdetail("It has %zu bytes; the limit of AMQP is %d.",
						   strlen(correlation_id), CORRELATION_ID_BYTES)));
	return correlation_id;
}

/*
 * Look up a function by its name and exact signature.  "role" says in
 * messages what it is for.
 */
static Oid
find_function(const char *name, const char *role, int nargs,
			  const Oid *argtypes, Oid result, Oid caller)
{
	List	   *names = cqrs_qualified_name_list(name);
	Oid			function;

	/* Otherwise the session's search_path would choose the function. */
	if (list_length(names) < 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("%s \"%s\" is not qualified with a schema", role, name),
				 errhint("Write it as schema.function.")));

	function = LookupFuncName(names, nargs, argtypes, true);
	if (!OidIsValid(function) || get_func_rettype(function) != result ||
		get_func_prokind(function) != PROKIND_FUNCTION)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("%s %s does not exist", role,
						func_signature_string(names, nargs, NIL, argtypes)),
				 errdetail("It has to be a function with exactly these arguments that returns %s.",
						   format_type_be(result))));
	if (func_volatile(function) == PROVOLATILE_VOLATILE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("%s %s is VOLATILE", role,
						func_signature_string(names, nargs, NIL, argtypes)),
				 errdetail("It runs while a transaction commits and must not change data."),
				 errhint("Declare the function STABLE or IMMUTABLE.")));
	if (cqrs_execute_aclcheck(function, caller) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for %s %s", role,
						func_signature_string(names, nargs, NIL, argtypes)),
				 errdetail("It is called with the rights of the table's owner.")));
	return function;
}

/* An error leaves role and settings to the abort of the transaction. */
static Datum
call_as_owner(Relation rel, const char *name, Oid function,
			  const CqrsMessage *message, NullableDatum *args, int nargs,
			  bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 4);
	FmgrInfo	flinfo;
	ErrorContextCallback callback;
	HookContext context = {name, message};
	Oid			role;
	int			security;
	int			level;
	Datum		result;

	callback.callback = error_context;
	callback.arg = &context;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	GetUserIdAndSecContext(&role, &security);
	SetUserIdAndSecContext(rel->rd_rel->relowner,
						   security | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);

	fmgr_info(function, &flinfo);
	InitFunctionCallInfoData(*fcinfo, &flinfo, nargs, InvalidOid, NULL, NULL);
	*isnull = false;
	for (int i = 0; i < nargs; i++)
	{
		fcinfo->args[i] = args[i];
		if (args[i].isnull && flinfo.fn_strict)
			*isnull = true;
	}
	if (*isnull)
		result = (Datum) 0;
	else
	{
		result = FunctionCallInvoke(fcinfo);
		*isnull = fcinfo->isnull;
	}

	AtEOXact_GUC(false, level);
	SetUserIdAndSecContext(role, security);
	error_context_stack = callback.previous;
	return result;
}

static void
error_context(void *arg)
{
	HookContext *context = arg;

	errcontext("function %s for the %s of master \"%s\", key %s",
			   context->function, cqrs_signal_name(context->message->signal),
			   context->message->cqrs_id, context->message->instance_pk);
}

static NullableDatum
text_arg(const char *text)
{
	NullableDatum arg;

	arg.isnull = text == NULL;

	arg.value = arg.isnull ? (Datum) 0 : CStringGetTextDatum(text);
	return arg;
}

static NullableDatum
jsonb_arg(const char *json)
{
	NullableDatum arg;

	arg.isnull = json == NULL;
	arg.value = arg.isnull ? (Datum) 0 :
		DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
	return arg;
}

/* A JSON scalar as text: a string without its quotes. */
static char *
json_to_text(const char *json)
{
	Jsonb	   *jsonb;
	JsonbValue	value;

	if (json[0] != '"')
		return pstrdup(json);
	jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											   CStringGetDatum(json)));
	JsonbExtractScalar(&jsonb->root, &value);
	return pnstrdup(value.val.string.val, value.val.string.len);
}
