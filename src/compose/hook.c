/*-------------------------------------------------------------------------
 *
 * hook.c
 *	  Users' functions and expressions that take part in making messages.
 *
 * They run while the transaction commits, under its active snapshot, with the
 * rights of the owner of the master's table and search_path "pg_catalog,
 * pg_temp".  So a writer with fewer rights gains nothing by them, and they do
 * not find the writer's objects.  Nor do they mean anything else because of the
 * writer's settings (cqrs_serialize_pin_all_settings).  The transaction is
 * read-only meanwhile, because a STABLE function can call a VOLATILE one that
 * writes, and triggers can no longer note changes.  (NOTIFY is no write to
 * PostgreSQL, nor is one to a large object up to version 15.)  Our own writes
 * do not go through the executor and are not affected.  After an error, the end
 * of the subtransaction restores all these settings.  An error in a function
 * gets a context line that names the function and the message; compose.c
 * handles the error.
 *
 * hooks.c finds these functions and checks them; this file calls them.
 *
 * Hooks get rows of the type of the table that was registered; the row of a
 * partition is converted if its columns are in another order.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupconvert.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/error_context.h"
#include "base/guc.h"
#include "base/limits.h"
#include "compose/hook.h"
#include "compose/serialize.h"
#include "master/condition.h"
#include "master/hooks.h"

/* What an error context names while a hook is prepared and called. */
typedef struct ErrorSubject
{
	ErrorContextCallback callback;
	const char *hook;			/* NULL: sync_when */
	const CqrsHookSubject *subject;
	int			nrows;
} ErrorSubject;

static CqrsHooks *take(const CqrsHookSubject *subject);
static Datum call(CqrsFunction *hook, NullableDatum *args, int nargs,
				  bool *isnull);
static void push_context(ErrorSubject *error, const char *hook,
						 const CqrsHookSubject *subject, int nrows);
static void pop_context(ErrorSubject *error);
static void error_context(void *arg);
static HeapTuple root_tuple(const CqrsRelation *relation, HeapTuple row);
static NullableDatum row_arg(const CqrsRelation *relation, HeapTuple row);
static NullableDatum rows_arg(const CqrsRelation *relation, HeapTuple *rows,
							  int nrows);
static NullableDatum text_arg(const char *text);
static NullableDatum jsonb_arg(const char *json);
static char *json_to_text(const char *json);
static Datum without_key(Datum object, const char *key);
static void serialize_set(const CqrsHookSubject *subject, CqrsFunction *hook,
						  HeapTuple *rows, int nrows, char **results);
static char *serialized_object(CqrsFunction *hook, Datum value, bool isnull,
							   bool is_jsonb);

bool
cqrs_hook_any(const CqrsRelation *relation)
{
	ListCell   *lc;

	if (cqrs_meta_function[0] != '\0' || cqrs_correlation_function[0] != '\0')
		return true;
	foreach(lc, relation->masters)
	{
		if (cqrs_master_has_hooks(lfirst(lc)))
			return true;
	}
	return false;
}

void
cqrs_hook_enter(CqrsHookScope *scope, Relation rel,
				const CqrsRelation *relation)
{
	scope->guc_level = 0;
	if (cqrs_hook_any(relation))
		cqrs_hook_enter_as_owner(scope, relation);
	else if (cqrs_serialize_uses_settings(rel, relation))
	{
		scope->guc_level = cqrs_serialize_pin_settings();
		scope->read_only = XactReadOnly;
		GetUserIdAndSecContext(&scope->role, &scope->security);
	}
}

void
cqrs_hook_enter_as_owner(CqrsHookScope *scope, const CqrsRelation *relation)
{
	scope->guc_level = cqrs_serialize_pin_all_settings();
	scope->read_only = XactReadOnly;
	XactReadOnly = true;
	GetUserIdAndSecContext(&scope->role, &scope->security);
	SetUserIdAndSecContext(relation->owner,
						   scope->security | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
}

void
cqrs_hook_leave(CqrsHookScope *scope)
{
	if (scope->guc_level == 0)
		return;
	AtEOXact_GUC(false, scope->guc_level);
	XactReadOnly = scope->read_only;
	SetUserIdAndSecContext(scope->role, scope->security);
	scope->guc_level = 0;
}

void
cqrs_hook_check(const CqrsRelation *relation, CqrsMaster *master)
{
	cqrs_hooks_give_back(cqrs_hooks_take(relation, master));
}

void
cqrs_hook_check_settings(const CqrsRelation *relation,
						 const CqrsMaster *master)
{
	if (cqrs_meta_function[0] != '\0' && master->meta == NULL)
		cqrs_hooks_give_back(cqrs_hooks_take_meta_setting(relation->owner));
	if (cqrs_correlation_function[0] != '\0')
		cqrs_hooks_give_back(cqrs_hooks_take_correlation_setting(relation->owner));
}

bool
cqrs_hook_matches(const CqrsHookSubject *subject, HeapTuple row)
{
	ErrorSubject error;
	CqrsHooks  *hooks;
	bool		matches;

	if (subject->master->sync_when == NULL)
		return true;

	push_context(&error, NULL, subject, 1);
	hooks = take(subject);
	matches = cqrs_condition_holds(hooks->sync_when,
								   root_tuple(subject->relation, row));
	cqrs_hooks_give_back(hooks);
	pop_context(&error);
	return matches;
}

bool
cqrs_hook_is_set_wise(const CqrsRelation *relation, CqrsMaster *master)
{
	CqrsHooks  *hooks;
	bool		set_wise;

	if (master->serializer == NULL)
		return false;
	hooks = cqrs_hooks_take(relation, master);
	set_wise = hooks->set_wise;
	cqrs_hooks_give_back(hooks);
	return set_wise;
}

void
cqrs_hook_serialize(const CqrsHookSubject *subject, HeapTuple *rows,
					int nrows, char **results)
{
	CqrsHooks  *hooks = take(subject);
	CqrsFunction *hook = &hooks->serializer;
	NullableDatum arg;
	Datum		value;
	bool		isnull;
	ErrorSubject error;

	push_context(&error, hook->name, subject, nrows);
	if (hooks->set_wise)
		serialize_set(subject, hook, rows, nrows, results);
	else
	{
		for (int i = 0; i < nrows; i++)
		{
			arg = row_arg(subject->relation, rows[i]);
			value = call(hook, &arg, 1, &isnull);
			results[i] = serialized_object(hook, value, isnull,
										   hook->result == JSONBOID);
		}
	}
	cqrs_hooks_give_back(hooks);
	pop_context(&error);
}

/* The same in one call for all rows. */
static void
serialize_set(const CqrsHookSubject *subject, CqrsFunction *hook,
			  HeapTuple *rows, int nrows, char **results)
{
	Oid			type = get_element_type(hook->result);
	NullableDatum arg = rows_arg(subject->relation, rows, nrows);
	bool		isnull;
	Datum		value = call(hook, &arg, 1, &isnull);
	Datum	   *elems;
	bool	   *nulls;
	int			nelems = 0;

	if (!isnull)
		deconstruct_array(DatumGetArrayTypeP(value), type, -1, false,
						  TYPALIGN_INT, &elems, &nulls, &nelems);
	if (nelems != nrows)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("serializer %s has not returned one object for each row",
						hook->name),
				 errdetail("The number of rows is %d, and the number of objects is %d.",
						   nrows, nelems),
				 errhint("Return an array with the object of each row at the position of the row.")));
	for (int i = 0; i < nrows; i++)
		results[i] = serialized_object(hook, elems[i], nulls[i],
									   type == JSONBOID);
}

char *
cqrs_hook_delete_data(const CqrsHookSubject *subject, HeapTuple row)
{
	CqrsHooks  *hooks;
	NullableDatum arg;
	Jsonb	   *data;
	Datum		value;
	bool		isnull;
	char	   *json = NULL;
	ErrorSubject error;

	if (subject->master->delete_data == NULL)
		return NULL;
	hooks = take(subject);
	push_context(&error, hooks->delete_data.name, subject, 1);
	arg = row_arg(subject->relation, row);
	value = call(&hooks->delete_data, &arg, 1, &isnull);
	pop_context(&error);
	if (!isnull)
	{
		/* django-cqrs omits values that Python takes for false. */
		data = DatumGetJsonbP(value);
		if (JB_ROOT_IS_SCALAR(data) || JB_ROOT_COUNT(data) > 0)
			json = JsonbToCString(NULL, &data->root, -1);
	}
	cqrs_hooks_give_back(hooks);
	return json;
}

char *
cqrs_hook_meta(const CqrsHookSubject *subject, HeapTuple row,
			   const CqrsMessage *message)
{
	NullableDatum args[4];
	CqrsHooks  *hooks;
	CqrsFunction *hook;
	Datum		meta;
	bool		isnull;
	char	   *json = NULL;
	ErrorSubject error;

	if (subject->master->meta != NULL)
	{
		hooks = take(subject);
		hook = &hooks->meta;
	}
	else if (cqrs_meta_function[0] != '\0')
	{
		hooks = cqrs_hooks_take_meta_setting(subject->relation->owner);
		hook = &hooks->setting;
	}
	else
		return NULL;

	push_context(&error, hook->name, subject, 1);
	args[0] = subject->master->meta != NULL ?
		row_arg(subject->relation, row) : text_arg(message->cqrs_id);
	args[1] = text_arg(cqrs_signal_name(message->signal));
	args[2] = jsonb_arg(message->instance_data);
	args[3] = jsonb_arg(message->previous_data);
	meta = call(hook, args, lengthof(args), &isnull);
	pop_context(&error);
	if (!isnull)
		json = JsonbToCString(NULL, &DatumGetJsonbP(meta)->root, -1);
	cqrs_hooks_give_back(hooks);
	return json;
}

char *
cqrs_hook_correlation_id(const CqrsHookSubject *subject,
						 const CqrsMessage *message)
{
	CqrsHooks  *hooks;
	CqrsFunction *hook;
	NullableDatum args[4];
	Datum		result;
	bool		isnull;
	char	   *correlation_id = NULL;
	ErrorSubject error;

	if (cqrs_correlation_function[0] == '\0')
		return NULL;

	hooks = cqrs_hooks_take_correlation_setting(subject->relation->owner);
	hook = &hooks->setting;
	push_context(&error, hook->name, subject, 1);
	args[0] = text_arg(cqrs_signal_name(message->signal));
	args[1] = text_arg(message->cqrs_id);
	args[2] = text_arg(json_to_text(message->instance_pk));
	args[3] = text_arg(message->queue);
	result = call(hook, args, lengthof(args), &isnull);
	pop_context(&error);
	if (!isnull)
		correlation_id = TextDatumGetCString(result);
	if (!isnull && strlen(correlation_id) > CQRS_SHORTSTR_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("correlation id from function %s is too long",
						hook->name),
				 errdetail("The correlation id has %zu bytes, and the limit of AMQP is %d.",
						   strlen(correlation_id), CQRS_SHORTSTR_BYTES)));
	cqrs_hooks_give_back(hooks);
	return correlation_id;
}

static CqrsHooks *
take(const CqrsHookSubject *subject)
{
	return cqrs_hooks_take(subject->relation, subject->master);
}

/* Call a hook.  A strict hook is not called if an argument is null. */
static Datum
call(CqrsFunction *hook, NullableDatum *args, int nargs, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 4);
	Datum		result;

	InitFunctionCallInfoData(*fcinfo, &hook->flinfo, nargs, InvalidOid, NULL,
							 NULL);
	*isnull = true;
	for (int i = 0; i < nargs; i++)
	{
		fcinfo->args[i] = args[i];
		if (args[i].isnull && hook->flinfo.fn_strict)
			return (Datum) 0;
	}
	Assert(XactReadOnly && InSecurityRestrictedOperation());	/* I18 */
	result = FunctionCallInvoke(fcinfo);
	*isnull = fcinfo->isnull;
	return result;
}

/*
 * Add a context line to errors, until pop_context().  It names the hook, NULL
 * for sync_when, and the message.  Of "nrows" messages the subject is the
 * first.
 */
static void
push_context(ErrorSubject *error, const char *hook,
			 const CqrsHookSubject *subject, int nrows)
{
	error->hook = hook;
	error->subject = subject;
	error->nrows = nrows;
	cqrs_error_context_push(&error->callback, error_context, error);
}

static void
pop_context(ErrorSubject *error)
{
	cqrs_error_context_pop(&error->callback);
}

static void
error_context(void *arg)
{
	ErrorSubject *error = arg;
	const CqrsHookSubject *subject = error->subject;

	if (error->hook == NULL)
		errcontext("sync_when for the %s of master \"%s\", key %s",
				   cqrs_signal_name(subject->signal),
				   subject->master->cqrs_id, subject->key);
	else if (error->nrows > 1)
		errcontext("function %s for %d messages of master \"%s\", the first of key %s",
				   error->hook, error->nrows, subject->master->cqrs_id,
				   subject->key);
	else
		errcontext("function %s for the %s of master \"%s\", key %s",
				   error->hook, cqrs_signal_name(subject->signal),
				   subject->master->cqrs_id, subject->key);
}

/* A row in the layout of the registered table. */
static HeapTuple
root_tuple(const CqrsRelation *relation, HeapTuple row)
{
	return relation->to_root == NULL ? row :
		execute_attr_map_tuple(row, relation->to_root);
}

Datum
cqrs_hook_row(const CqrsRelation *relation, HeapTuple row)
{
	return heap_copy_tuple_as_datum(root_tuple(relation, row),
									relation->root_desc);
}

/* This one and those that follow: an argument of a function. */
static NullableDatum
row_arg(const CqrsRelation *relation, HeapTuple row)
{
	NullableDatum arg = {.isnull = false};

	arg.value = cqrs_hook_row(relation, row);
	return arg;
}

static NullableDatum
rows_arg(const CqrsRelation *relation, HeapTuple *rows, int nrows)
{
	NullableDatum arg = {.isnull = false};
	Datum	   *elems = palloc(sizeof(Datum) * nrows);

	for (int i = 0; i < nrows; i++)
		elems[i] = cqrs_hook_row(relation, rows[i]);
	arg.value = PointerGetDatum(construct_array(elems, nrows,
												relation->root_desc->tdtypeid,
												-1, false, TYPALIGN_DOUBLE));
	return arg;
}

static NullableDatum
text_arg(const char *text)
{
	NullableDatum arg = {0};

	arg.isnull = text == NULL;

	if (!arg.isnull)
		arg.value = CStringGetTextDatum(text);
	return arg;
}

static NullableDatum
jsonb_arg(const char *json)
{
	NullableDatum arg = {.isnull = json == NULL};

	if (!arg.isnull)
		arg.value = DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
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

/* A jsonb object without a key. */
static Datum
without_key(Datum object, const char *key)
{
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(&DatumGetJsonbP(object)->root, key,
									 strlen(key), &value) == NULL)
		return object;
	return DirectFunctionCall2(jsonb_delete, object, CStringGetTextDatum(key));
}

/* The text of what a serializer has returned, which must be an object. */
static char *
serialized_object(CqrsFunction *hook, Datum value, bool isnull, bool is_jsonb)
{
	if (!isnull && is_jsonb && JB_ROOT_IS_OBJECT(DatumGetJsonbP(value)))
	{
		/* A serializer may have started from to_jsonb(row). */
		value = without_key(without_key(value, "cqrs_revision"),
							"cqrs_updated");
		return JsonbToCString(NULL, &DatumGetJsonbP(value)->root, -1);
	}
	if (!isnull && !is_jsonb &&
		strcmp(TextDatumGetCString(DirectFunctionCall1(json_typeof, value)),
			   "object") == 0)
		return TextDatumGetCString(value);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_JSON_TEXT),
			 errmsg("serializer %s has not returned a JSON object",
					hook->name)));
}
