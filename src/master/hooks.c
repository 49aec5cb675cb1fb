/*-------------------------------------------------------------------------
 *
 * hooks.c
 *	  Users' functions that take part in making messages, looked up.
 *
 * Functions are kept by their qualified names, so that a dump restores them.
 * What a name stands for is looked up once, and again after any change in
 * pg_proc.  The hooks of a master are kept with it in the cache of relation.c,
 * those of settings here.
 *
 * They have to be STABLE or IMMUTABLE, which is what they are called for; that
 * they do not write is ensured while they run (hook.c).  They have to
 * have one of some exact signatures, and the owner of the table has to be
 * allowed to call them.
 *
 * A result that is kept is put together in the caller's memory context and
 * moved to where it stays when it is complete: an error leaves the last one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/guc.h"
#include "master/hooks.h"

/* Signatures that a hook may have. */
typedef struct Signature
{
	int			nargs;
	Oid			args[4];
	Oid			result;
} Signature;

/* A function that a setting names, for the owner of the table last used. */
typedef struct SettingHook
{
	MemoryContext context;		/* NULL: not looked up */
	uint64		generation;
	Oid			owner;
	CqrsFunction hook;
} SettingHook;

/* Changes whenever a function may have. */
static uint64 generation = 1;

static SettingHook meta_setting;
static SettingHook correlation_setting;

static void look_up_hooks(const CqrsRelation *relation, CqrsMaster *master,
						  CqrsHooks *hooks);
static int	find_hook(CqrsFunction *hook, CqrsOption option, const char *name,
					  Oid root, Oid owner);
static int	find_function(CqrsFunction *hook, const char *name,
						  const char *role, const Signature *signatures,
						  int nsignatures, Oid owner);
static Oid	schema_of(List *names, char **unqualified);
static Oid	find_exact(Oid schema, const char *name,
					   const Signature *signature);
static CqrsFunction *setting_hook(SettingHook *setting, const char *name,
								  const char *role,
								  const Signature *signature, Oid owner);
static void watch_functions(void);
static void functions_changed(Datum arg, int cacheid, uint32 hashvalue);

struct CqrsHooks *
cqrs_function_hooks(const CqrsRelation *relation, CqrsMaster *master)
{
	CqrsHooks  *hooks = master->hooks;
	MemoryContext context;
	MemoryContext caller;

	if (hooks != NULL && hooks->generation == generation)
		return hooks;

	/* What is looked up and folded here stays for all who come after. */
	if (cqrs_master_has_hooks(master) &&
		(GetUserId() != relation->owner || !InSecurityRestrictedOperation()))
		elog(ERROR, "hooks of master \"%s\" are looked up without the rights of its owner",
			 master->cqrs_id);

	watch_functions();
	context = AllocSetContextCreate(CurrentMemoryContext, "cqrs hooks",
									ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	hooks = palloc0(sizeof(CqrsHooks));
	hooks->context = context;
	hooks->generation = generation;
	look_up_hooks(relation, master, hooks);
	MemoryContextSwitchTo(caller);

	/* A call further up the stack may still use the old ones. */
	if (master->hooks != NULL)
		MemoryContextSetParent(master->hooks->context, TopTransactionContext);
	MemoryContextSetParent(context, GetMemoryChunkContext(master));
	master->hooks = hooks;
	return hooks;
}

CqrsFunction *
cqrs_function_meta_setting(Oid owner)
{
	static const Signature signature = {4, {TEXTOID, TEXTOID, JSONBOID, JSONBOID}, JSONBOID};

	return setting_hook(&meta_setting, cqrs_meta_function,
						"function of \"cqrs.meta_function\"", &signature,
						owner);
}

CqrsFunction *
cqrs_function_correlation_setting(Oid owner)
{
	static const Signature signature = {4, {TEXTOID, TEXTOID, TEXTOID, TEXTOID}, TEXTOID};

	return setting_hook(&correlation_setting, cqrs_correlation_function,
						"function of \"cqrs.correlation_function\"",
						&signature, owner);
}

void
cqrs_function_check(CqrsOption option, const char *name, Oid root,
					Oid owner)
{
	CqrsFunction hook;

	(void) find_hook(&hook, option, name, root, owner);
}

const char *
cqrs_function_role(CqrsOption option)
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

char *
cqrs_function_qualified_name(CqrsOption option, Oid function)
{
	char	   *name = get_func_name(function);

	/* Anything can be cast to regproc, and a function can be dropped. */
	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("%s with OID %u does not exist",
						cqrs_function_role(option), function),
				 errdetail("The option takes the name of a function, or null for none."),
				 errhint("Create the function, or name another one.")));
	return quote_qualified_identifier(get_namespace_name(get_func_namespace(function)),
									  name);
}

static void
look_up_hooks(const CqrsRelation *relation, CqrsMaster *master,
			  CqrsHooks *hooks)
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
find_hook(CqrsFunction *hook, CqrsOption option, const char *name, Oid root,
		  Oid owner)
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
		return find_function(hook, name, cqrs_function_role(option), serializers,
							 lengthof(serializers), owner);
	return find_function(hook, name, cqrs_function_role(option),
						 option == CQRS_OPTION_META ? &meta : &delete_data, 1,
						 owner);
}

/*
 * Look up a function by its name and one of some exact signatures, whose
 * number is returned.  "role" says in messages what it is for.
 */
static int
find_function(CqrsFunction *hook, const char *name, const char *role,
			  const Signature *signatures, int nsignatures, Oid owner)
{
	List	   *names = cqrs_qualified_name_list(name);
	const char *called;
	Oid			schema;
	char	   *unqualified;
	Oid			function = InvalidOid;
	int			i;

	/* Otherwise the session's search_path would choose the function. */
	if (list_length(names) < 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("%s \"%s\" is not qualified with a schema", role, name),
				 errdetail("The writer's search_path is not to choose it."),
				 errhint("Write it as schema.function.")));

	schema = schema_of(names, &unqualified);
	for (i = 0; i < nsignatures; i++)
	{
		function = find_exact(schema, unqualified, &signatures[i]);
		if (OidIsValid(function) &&
			get_func_rettype(function) == signatures[i].result &&
			get_func_prokind(function) == PROKIND_FUNCTION &&
			!get_func_retset(function))
			break;
	}
	called = func_signature_string(names, signatures[0].nargs, NIL,
								   signatures[0].args);
	if (i == nsignatures)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("%s %s does not exist", role, called),
				 errdetail("It has to be a function with exactly these arguments that returns one %s.",
						   format_type_be(signatures[0].result)),
				 nsignatures == 1 ?
				 errhint("Create it, or name another one.") :
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
	if (cqrs_usage_aclcheck(schema, owner) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for schema %s", get_namespace_name(schema)),
				 errdetail("It has the %s %s, which is called with the rights of the table's owner.",
						   role, called),
				 errhint("Grant USAGE to the owner of the table.")));
	if (cqrs_execute_aclcheck(function, owner) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for %s %s", role, called),
				 errdetail("It is called with the rights of the table's owner."),
				 errhint("Grant EXECUTE to the owner of the table.")));

	hook->name = pstrdup(name);
	hook->result = signatures[i].result;
	fmgr_info_cxt(function, &hook->flinfo, CurrentMemoryContext);
	return i;
}

/*
 * The schema in a qualified name, InvalidOid when there is none of that name,
 * whatever rights the current user has on it.
 */
static Oid
schema_of(List *names, char **unqualified)
{
	char	   *schema;

	DeconstructQualifiedName(names, &schema, unqualified);
	return schema == NULL ? InvalidOid : get_namespace_oid(schema, true);
}

/* The function of a schema with exactly these arguments, or InvalidOid. */
static Oid
find_exact(Oid schema, const char *name, const Signature *signature)
{
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
						   CStringGetDatum(name),
						   PointerGetDatum(buildoidvector(signature->args,
														  signature->nargs)),
						   ObjectIdGetDatum(schema));
}

List *
cqrs_function_candidates(const char *name)
{
	List	   *functions = NIL;
	char	   *unqualified;
	Oid			schema = schema_of(cqrs_qualified_name_list(name),
								   &unqualified);
	CatCList   *list = SearchSysCacheList1(PROCNAMEARGSNSP,
										   CStringGetDatum(unqualified));

	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_proc form = (Form_pg_proc) GETSTRUCT(&list->members[i]->tuple);

		if (form->pronamespace == schema &&
			form->provolatile != PROVOLATILE_VOLATILE)
			functions = lappend_oid(functions, form->oid);
	}
	ReleaseSysCacheList(list);
	return functions;
}

static CqrsFunction *
setting_hook(SettingHook *setting, const char *name, const char *role,
			 const Signature *signature, Oid owner)
{
	MemoryContext context;
	MemoryContext caller;
	CqrsFunction hook;

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
		MemoryContextSetParent(setting->context, TopTransactionContext);
	MemoryContextSetParent(context, TopMemoryContext);
	setting->context = context;
	setting->generation = generation;
	setting->owner = owner;
	setting->hook = hook;
	return &setting->hook;
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
