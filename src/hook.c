/*-------------------------------------------------------------------------
 *
 * hook.c
 *	  Users' functions and expressions that take part in making messages.
 *
 * They run while the transaction commits, under its active snapshot, with the
 * rights of the owner of the master's table and search_path "pg_catalog,
 * pg_temp": a writer with fewer rights gains nothing by what they do, and
 * objects of its own are not found by them.  They have to be STABLE or
 * IMMUTABLE, so that PostgreSQL itself refuses writes in them: triggers queued
 * this late would never fire.  An error in one has a context line that names
 * the function and the message; what becomes of it is compose.c's business.
 *
 * What the hooks of a master are is looked up once, and again after any change
 * in pg_proc, and kept with the master in the cache of catalog.c.  Those of
 * settings are kept here.
 *
 * Hooks get rows of the type of the table that was registered; the row of a
 * partition is converted when its columns lie differently.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupconvert.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "condition.h"
#include "guc.h"
#include "hook.h"
#include "serialize.h"

/* AMQP 0-9-1: the property correlation-id is a short string. */
#define CORRELATION_ID_BYTES	255

/* A function that has been looked up. */
typedef struct Hook
{
	char	   *name;			/* qualified; NULL: there is none */
	Oid			result;
	FmgrInfo	flinfo;
} Hook;

/* The hooks of a master. */
struct CqrsHooks
{
	MemoryContext context;		/* holds all of this */
	uint64		generation;
	Hook		serializer;
	bool		set_wise;
	Hook		meta;
	Hook		delete_data;
	CqrsCondition *sync_when;	/* or NULL */
};

/* A function that a setting names, for the owner of the table last used. */
typedef struct SettingHook
{
	MemoryContext context;		/* NULL: not looked up */
	uint64		generation;
	Oid			owner;
	Hook		hook;
} SettingHook;

/* Signatures that a hook may have. */
typedef struct Signature
{
	int			nargs;
	Oid			args[4];
	Oid			result;
} Signature;

typedef struct ErrorSubject
{
	const char *hook;			/* NULL: sync_when */
	const CqrsHookSubject *subject;
	int			nrows;
} ErrorSubject;

/* Changes whenever a function may have. */
static uint64 generation = 1;

static SettingHook meta_setting;
static SettingHook correlation_setting;

static struct CqrsHooks *hooks_of(const CqrsRelation *relation,
								  CqrsMaster *master);
static void look_up_hooks(const CqrsRelation *relation, CqrsMaster *master,
						  struct CqrsHooks *hooks);
static int	find_hook(Hook *hook, CqrsOption option, const char *name,
					  Oid root, Oid owner);
static void watch_functions(void);
static void functions_changed(Datum arg, int cacheid, uint32 hashvalue);
static int	find_function(Hook *hook, const char *name, const char *role,
						  const Signature *signatures, int nsignatures,
						  Oid owner);
static Hook *meta_setting_hook(Oid owner);
static Hook *correlation_setting_hook(Oid owner);
static Hook *setting_hook(SettingHook *setting, const char *name,
						  const char *role, const Signature *signature,
						  Oid owner);
static Datum call(Hook *hook, const CqrsHookSubject *subject, int nrows,
				  NullableDatum *args, int nargs, bool *isnull);
static void error_context(void *arg);
static HeapTuple root_tuple(const CqrsRelation *relation, HeapTuple row);
static NullableDatum row_arg(const CqrsRelation *relation, HeapTuple row);
static NullableDatum rows_arg(const CqrsRelation *relation, HeapTuple *rows,
							  int nrows);
static NullableDatum text_arg(const char *text);
static NullableDatum jsonb_arg(const char *json);
static char *json_to_text(const char *json);
static char *serialized_object(const CqrsHookSubject *subject, Hook *hook,
							   Datum value, bool isnull, bool is_jsonb);

void
cqrs_hook_enter(CqrsHookScope *scope, Relation rel,
				const CqrsRelation *relation)
{
	bool		any = cqrs_meta_function[0] != '\0' ||
	cqrs_correlation_function[0] != '\0';
	ListCell   *lc;

	foreach(lc, relation->masters)
	{
		CqrsMaster *master = lfirst(lc);

		any |= master->meta != NULL || master->serializer != NULL ||
			master->sync_when != NULL || master->delete_data != NULL;
	}

	scope->guc_level = 0;
	if (!any && !cqrs_serialize_uses_settings(rel, relation))
		return;
	scope->guc_level = cqrs_serialize_pin_settings();
	GetUserIdAndSecContext(&scope->role, &scope->security);
	if (!any)
		return;
	SetUserIdAndSecContext(relation->owner,
						   scope->security | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
}

void
cqrs_hook_leave(CqrsHookScope *scope)
{
	if (scope->guc_level == 0)
		return;
	AtEOXact_GUC(false, scope->guc_level);
	SetUserIdAndSecContext(scope->role, scope->security);
	scope->guc_level = 0;
}

void
cqrs_hook_check(const CqrsRelation *relation, CqrsMaster *master)
{
	(void) hooks_of(relation, master);
}

void
cqrs_hook_check_settings(const CqrsRelation *relation,
						 const CqrsMaster *master)
{
	if (cqrs_meta_function[0] != '\0' && master->meta == NULL)
		(void) meta_setting_hook(relation->owner);
	if (cqrs_correlation_function[0] != '\0')
		(void) correlation_setting_hook(relation->owner);
}

char *
cqrs_hook_qualified_name(Oid function)
{
	return quote_qualified_identifier(get_namespace_name(get_func_namespace(function)),
									  get_func_name(function));
}

bool
cqrs_hook_matches(const CqrsHookSubject *subject, HeapTuple row)
{
	ErrorContextCallback callback;
	ErrorSubject error = {NULL, subject, 1};
	bool		matches;

	if (subject->master->sync_when == NULL)
		return true;

	callback.callback = error_context;
	callback.arg = &error;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	matches = cqrs_condition_holds(hooks_of(subject->relation,
											subject->master)->sync_when,
								   root_tuple(subject->relation, row));
	error_context_stack = callback.previous;
	return matches;
}

bool
cqrs_hook_is_set_wise(const CqrsRelation *relation, CqrsMaster *master)
{
	return master->serializer != NULL && hooks_of(relation, master)->set_wise;
}

void
cqrs_hook_serialize(const CqrsHookSubject *subject, HeapTuple *rows,
					int nrows, char **results)
{
	struct CqrsHooks *hooks = hooks_of(subject->relation, subject->master);
	Hook	   *hook = &hooks->serializer;
	Oid			type = hooks->set_wise ? get_element_type(hook->result) :
	hook->result;
	NullableDatum arg;
	Datum		value;
	bool		isnull;
	Datum	   *elems;
	bool	   *nulls;
	int			nelems = 0;

	if (!hooks->set_wise)
	{
		for (int i = 0; i < nrows; i++)
		{
			arg = row_arg(subject->relation, rows[i]);
			value = call(hook, subject, 1, &arg, 1, &isnull);
			results[i] = serialized_object(subject, hook, value, isnull,
										   type == JSONBOID);
		}
		return;
	}

	arg = rows_arg(subject->relation, rows, nrows);
	value = call(hook, subject, nrows, &arg, 1, &isnull);
	if (!isnull)
		deconstruct_array(DatumGetArrayTypeP(value), type, -1, false,
						  TYPALIGN_INT, &elems, &nulls, &nelems);
	if (nelems != nrows)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("serializer %s has returned %d objects for %d rows",
						hook->name, nelems, nrows),
				 errdetail("The array that it returns must have the object of each row in the place of the row.")));
	for (int i = 0; i < nrows; i++)
		results[i] = serialized_object(subject, hook, elems[i], nulls[i],
									   type == JSONBOID);
}

char *
cqrs_hook_delete_data(const CqrsHookSubject *subject, HeapTuple row)
{
	NullableDatum arg;
	Jsonb	   *data;
	Datum		value;
	bool		isnull;

	if (subject->master->delete_data == NULL)
		return NULL;
	arg = row_arg(subject->relation, row);
	value = call(&hooks_of(subject->relation, subject->master)->delete_data,
				 subject, 1, &arg, 1, &isnull);
	if (isnull)
		return NULL;

	/* django-cqrs leaves out what Python takes for false. */
	data = DatumGetJsonbP(value);
	if (!JB_ROOT_IS_SCALAR(data) && JB_ROOT_COUNT(data) == 0)
		return NULL;
	return JsonbToCString(NULL, &data->root, -1);
}

char *
cqrs_hook_meta(const CqrsHookSubject *subject, HeapTuple row,
			   const CqrsMessage *message)
{
	NullableDatum args[4];
	Hook	   *hook;
	Datum		meta;
	bool		isnull;

	if (subject->master->meta != NULL)
	{
		hook = &hooks_of(subject->relation, subject->master)->meta;
		args[0] = row_arg(subject->relation, row);
	}
	else if (cqrs_meta_function[0] != '\0')
	{
		hook = meta_setting_hook(subject->relation->owner);
		args[0] = text_arg(message->cqrs_id);
	}
	else
		return NULL;

	args[1] = text_arg(cqrs_signal_name(message->signal));
	args[2] = jsonb_arg(message->instance_data);
	args[3] = jsonb_arg(message->previous_data);
	meta = call(hook, subject, 1, args, lengthof(args), &isnull);
	return isnull ? NULL : JsonbToCString(NULL, &DatumGetJsonbP(meta)->root, -1);
}

char *
cqrs_hook_correlation_id(const CqrsHookSubject *subject,
						 const CqrsMessage *message)
{
	NullableDatum args[4];
	Datum		result;
	bool		isnull;
	char	   *correlation_id;

	if (cqrs_correlation_id[0] != '\0')
		return cqrs_correlation_id;
	if (cqrs_correlation_function[0] == '\0')
		return NULL;

	args[0] = text_arg(cqrs_signal_name(message->signal));
	args[1] = text_arg(message->cqrs_id);
	args[2] = text_arg(json_to_text(message->instance_pk));
	args[3] = text_arg(message->queue);
	result = call(correlation_setting_hook(subject->relation->owner), subject,
				  1, args, lengthof(args), &isnull);
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

/* The hooks of a master, looked up anew if any function has changed. */
static struct CqrsHooks *
hooks_of(const CqrsRelation *relation, CqrsMaster *master)
{
	struct CqrsHooks *hooks = master->hooks;
	MemoryContext context;
	MemoryContext caller;

	if (hooks != NULL && hooks->generation == generation)
		return hooks;

	watch_functions();
	context = AllocSetContextCreate(CurrentMemoryContext, "cqrs hooks",
									ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	hooks = palloc0(sizeof(struct CqrsHooks));
	hooks->context = context;
	hooks->generation = generation;
	look_up_hooks(relation, master, hooks);
	MemoryContextSwitchTo(caller);

	if (master->hooks != NULL)
		MemoryContextDelete(master->hooks->context);
	MemoryContextSetParent(context, GetMemoryChunkContext(master));
	master->hooks = hooks;
	return hooks;
}

static void
look_up_hooks(const CqrsRelation *relation, CqrsMaster *master,
			  struct CqrsHooks *hooks)
{
	Oid			root = relation->root;
	Oid			owner = relation->owner;

	if (master->serializer != NULL)
		hooks->set_wise = find_hook(&hooks->serializer,
									CQRS_OPTION_SERIALIZER,
									master->serializer, root, owner) >= 2;
	if (master->meta != NULL)
		(void) find_hook(&hooks->meta, CQRS_OPTION_META, master->meta, root,
						 owner);
	if (master->delete_data != NULL)
		(void) find_hook(&hooks->delete_data, CQRS_OPTION_DELETE_DATA,
						 master->delete_data, root, owner);
	if (master->sync_when != NULL)
		hooks->sync_when = cqrs_condition_compile(root, relation->root_desc,
												  master->sync_when,
												  "sync_when");
}

/*
 * Look up the function of an option; returns which of the signatures that it
 * can have it has.
 */
static int
find_hook(Hook *hook, CqrsOption option, const char *name, Oid root, Oid owner)
{
	Oid			row = get_rel_type_id(root);
	Oid			rows = get_array_type(row);
	const Signature serializers[] = {
		{1, {row}, JSONBOID}, {1, {row}, JSONOID},
		{1, {rows}, JSONBARRAYOID}, {1, {rows}, JSONARRAYOID}
	};
	const Signature meta = {4, {row, TEXTOID, JSONBOID, JSONBOID}, JSONBOID};
	const Signature delete_data = {1, {row}, JSONBOID};

	if (option == CQRS_OPTION_SERIALIZER)
		return find_function(hook, name, cqrs_hook_role(option), serializers,
							 lengthof(serializers), owner);
	return find_function(hook, name, cqrs_hook_role(option),
						 option == CQRS_OPTION_META ? &meta : &delete_data, 1,
						 owner);
}

void
cqrs_hook_check_function(CqrsOption option, const char *name, Oid root,
						 Oid owner)
{
	Hook		hook;

	(void) find_hook(&hook, option, name, root, owner);
}

const char *
cqrs_hook_role(CqrsOption option)
{
	switch (option)
	{
		case CQRS_OPTION_SERIALIZER:
			return "serializer";
		case CQRS_OPTION_META:
			return "meta function";
		case CQRS_OPTION_DELETE_DATA:
			return "delete_data function";
		default:
			elog(ERROR, "option %d names no function", option);
	}
}

static void
watch_functions(void)
{
	static bool watching = false;

	if (!watching)
		CacheRegisterSyscacheCallback(PROCOID, functions_changed, (Datum) 0);
	watching = true;
}

static void
functions_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	generation++;
}

/*
 * Look up a function by its name and one of some exact signatures, whose
 * number is returned.  "role" says in messages what it is for.
 */
static int
find_function(Hook *hook, const char *name, const char *role,
			  const Signature *signatures, int nsignatures, Oid owner)
{
	List	   *names = cqrs_qualified_name_list(name);
	const char *called;
	Oid			function = InvalidOid;
	int			i;

	/* Otherwise the session's search_path would choose the function. */
	if (list_length(names) < 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("%s \"%s\" is not qualified with a schema", role, name),
				 errhint("Write it as schema.function.")));

	for (i = 0; i < nsignatures; i++)
	{
		function = LookupFuncName(names, signatures[i].nargs,
								  signatures[i].args, true);
		if (OidIsValid(function) &&
			get_func_rettype(function) == signatures[i].result &&
			get_func_prokind(function) == PROKIND_FUNCTION)
			break;
	}
	called = func_signature_string(names, signatures[0].nargs, NIL,
								   signatures[0].args);
	if (i == nsignatures)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("%s %s does not exist", role, called),
				 errdetail("It has to be a function with exactly these arguments that returns %s.",
						   format_type_be(signatures[0].result)),
				 nsignatures == 1 ? 0 :
				 errhint("A %s may return json as well, or take an array of rows and return an array.",
						 role)));

	called = func_signature_string(names, signatures[i].nargs, NIL,
								   signatures[i].args);
	if (func_volatile(function) == PROVOLATILE_VOLATILE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("%s %s is VOLATILE", role, called),
				 errdetail("It runs while a transaction commits and must not change data."),
				 errhint("Declare the function STABLE or IMMUTABLE.")));
	if (cqrs_execute_aclcheck(function, owner) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for %s %s", role, called),
				 errdetail("It is called with the rights of the table's owner.")));

	hook->name = pstrdup(name);
	hook->result = signatures[i].result;
	fmgr_info_cxt(function, &hook->flinfo, CurrentMemoryContext);
	return i;
}

static Hook *
meta_setting_hook(Oid owner)
{
	static const Signature signature = {4, {TEXTOID, TEXTOID, JSONBOID, JSONBOID}, JSONBOID};

	return setting_hook(&meta_setting, cqrs_meta_function,
						"function of \"cqrs.meta_function\"", &signature,
						owner);
}

static Hook *
correlation_setting_hook(Oid owner)
{
	static const Signature signature = {4, {TEXTOID, TEXTOID, TEXTOID, TEXTOID}, TEXTOID};

	return setting_hook(&correlation_setting, cqrs_correlation_function,
						"function of \"cqrs.correlation_function\"",
						&signature, owner);
}

static Hook *
setting_hook(SettingHook *setting, const char *name, const char *role,
			 const Signature *signature, Oid owner)
{
	MemoryContext context;
	MemoryContext caller;
	Hook		hook;

	if (setting->context != NULL && setting->generation == generation &&
		setting->owner == owner && strcmp(setting->hook.name, name) == 0)
		return &setting->hook;

	watch_functions();
	context = AllocSetContextCreate(CurrentMemoryContext, "cqrs hooks",
									ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	(void) find_function(&hook, name, role, signature, 1, owner);
	MemoryContextSwitchTo(caller);

	if (setting->context != NULL)
		MemoryContextDelete(setting->context);
	MemoryContextSetParent(context, TopMemoryContext);
	setting->context = context;
	setting->generation = generation;
	setting->owner = owner;
	setting->hook = hook;
	return &setting->hook;
}

/* Call a hook, about "nrows" rows of which the subject is the first. */
static Datum
call(Hook *hook, const CqrsHookSubject *subject, int nrows,
	 NullableDatum *args, int nargs, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 4);
	ErrorContextCallback callback;
	ErrorSubject error = {hook->name, subject, nrows};
	Datum		result = (Datum) 0;

	callback.callback = error_context;
	callback.arg = &error;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	InitFunctionCallInfoData(*fcinfo, &hook->flinfo, nargs, InvalidOid, NULL,
							 NULL);
	*isnull = false;
	for (int i = 0; i < nargs; i++)
	{
		fcinfo->args[i] = args[i];
		if (args[i].isnull && hook->flinfo.fn_strict)
			*isnull = true;
	}
	if (!*isnull)
	{
		result = FunctionCallInvoke(fcinfo);
		*isnull = fcinfo->isnull;
	}

	error_context_stack = callback.previous;
	return result;
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

/* The text of what a serializer has returned, which must be an object. */
static char *
serialized_object(const CqrsHookSubject *subject, Hook *hook, Datum value,
				  bool isnull, bool is_jsonb)
{
	if (!isnull && is_jsonb && JB_ROOT_IS_OBJECT(DatumGetJsonbP(value)))
		return JsonbToCString(NULL, &DatumGetJsonbP(value)->root, -1);
	if (!isnull && !is_jsonb &&
		strcmp(TextDatumGetCString(DirectFunctionCall1(json_typeof, value)),
			   "object") == 0)
		return TextDatumGetCString(value);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_JSON_TEXT),
			 errmsg("serializer %s has not returned a JSON object", hook->name),
			 errdetail("It was called for master \"%s\".",
					   subject->master->cqrs_id)));
}
