/*-------------------------------------------------------------------------
 *
 * hooks.c
 *	  Users' functions that take part in making messages, looked up.
 *
 * The name of a function is looked up once, and again after any change in
 * pg_proc.  The hooks of a master are kept with the master in the cache of
 * relation.c, the functions of settings here.
 *
 * Hooks must be STABLE or IMMUTABLE.  hook.c ensures that they do not write
 * while they run.  They must have one of some exact signatures, and the owner
 * of the table must be allowed to call them.
 *
 * A cached result is built in the caller's memory context, and moved to its
 * final context when it is complete: after an error the previous result
 * remains.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "base/guc.h"
#include "master/hooks.h"
#include "master/options.h"

#define STABLE_BECAUSE \
	"The function runs while a transaction commits and must not change data."

/* A function that a setting names, for the owner of the table last used. */
typedef struct SettingHook
{
	MemoryContext context;		/* NULL: not looked up */
	uint64		generation;
	Oid			owner;
	CqrsFunction hook;
} SettingHook;

/* What is required of the function of an option. */
typedef struct HookKind
{
	CqrsFunctionKind kind;
	CqrsSignature signatures[4];
} HookKind;

static SettingHook meta_setting;
static SettingHook correlation_setting;

static void look_up_hooks(const CqrsRelation *relation, CqrsMaster *master,
						  CqrsHooks *hooks);
static int	find_hook(CqrsFunction *hook, CqrsOption option, const char *name,
					  Oid root, Oid owner);
static const CqrsFunctionKind *kind_of(HookKind *result, CqrsOption option,
									   Oid root);
static CqrsFunction *setting_hook(SettingHook *setting, const char *name,
								  const char *role,
								  const CqrsSignature *signature, Oid owner);

struct CqrsHooks *
cqrs_hooks_of(const CqrsRelation *relation, CqrsMaster *master)
{
	CqrsHooks  *hooks = master->hooks;
	MemoryContext context;
	MemoryContext caller;

	if (hooks != NULL && hooks->generation == cqrs_function_generation())
		return hooks;

	/* Later callers reuse what is looked up and folded here. */
	if (cqrs_master_has_hooks(master) &&
		(GetUserId() != relation->owner || !InSecurityRestrictedOperation()))
		elog(ERROR, "hooks of master \"%s\" are looked up without the rights of its owner",
			 master->cqrs_id);

	context = AllocSetContextCreate(CurrentMemoryContext, "cqrs hooks",
									ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	hooks = palloc0(sizeof(CqrsHooks));
	hooks->context = context;
	hooks->generation = cqrs_function_generation();
	look_up_hooks(relation, master, hooks);
	MemoryContextSwitchTo(caller);

	/* A caller further up the stack may still use the old hooks. */
	if (master->hooks != NULL)
		MemoryContextSetParent(master->hooks->context, TopTransactionContext);
	MemoryContextSetParent(context, GetMemoryChunkContext(master));
	master->hooks = hooks;
	return hooks;
}

CqrsFunction *
cqrs_hooks_meta_setting(Oid owner)
{
	static const CqrsSignature signature = {4, {TEXTOID, TEXTOID, JSONBOID, JSONBOID}, JSONBOID};

	return setting_hook(&meta_setting, cqrs_meta_function,
						"cqrs.meta_function", &signature,
						owner);
}

CqrsFunction *
cqrs_hooks_correlation_setting(Oid owner)
{
	static const CqrsSignature signature = {4, {TEXTOID, TEXTOID, TEXTOID, TEXTOID}, TEXTOID};

	return setting_hook(&correlation_setting, cqrs_correlation_function,
						"cqrs.correlation_function",
						&signature, owner);
}

void
cqrs_hooks_check(CqrsOption option, const char *name, Oid root,
				 Oid owner)
{
	CqrsFunction hook;

	(void) find_hook(&hook, option, name, root, owner);
}

/* Look up a master's functions, and compile its sync_when. */
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
 * Look up the function of an option; returns the index of its signature among
 * the signatures that the option allows.
 */
static int
find_hook(CqrsFunction *hook, CqrsOption option, const char *name, Oid root,
		  Oid owner)
{
	HookKind	hook_kind;

	return cqrs_function_find(hook, name, kind_of(&hook_kind, option, root),
							  owner);
}

Oid
cqrs_hooks_function(CqrsOption option, const char *name, Oid root)
{
	HookKind	hook_kind;

	return cqrs_function_oid(name, kind_of(&hook_kind, option, root));
}

/* What is required of the function of an option, as part of *result. */
static const CqrsFunctionKind *
kind_of(HookKind *result, CqrsOption option, Oid root)
{
	Oid			row = get_rel_type_id(root);
	Oid			rows = get_array_type(row);
	const CqrsSignature serializers[] = {
		{1, {row}, JSONBOID}, {1, {row}, JSONOID},
		{1, {rows}, JSONBARRAYOID}, {1, {rows}, JSONARRAYOID}
	};
	const CqrsSignature meta = {4, {row, TEXTOID, JSONBOID, JSONBOID}, JSONBOID};
	const CqrsSignature delete_data = {1, {row}, JSONBOID};
	CqrsFunctionKind kind = {
		.role = cqrs_options_master.infos[option].name,
		.nsignatures = 1,
		.signatures = result->signatures,
		.stable = STABLE_BECAUSE
	};

	StaticAssertStmt(sizeof(serializers) == sizeof(result->signatures),
					 "HookKind has room for all signatures");
	if (option == CQRS_OPTION_SERIALIZER)
	{
		kind.nsignatures = lengthof(serializers);
		kind.others = "A serializer may return json as well, or take an array of rows and return an array.";
		memcpy(result->signatures, serializers, sizeof(serializers));
	}
	else
		result->signatures[0] = option == CQRS_OPTION_META ? meta : delete_data;
	result->kind = kind;
	return &result->kind;
}

/*
 * The function that a setting names, looked up again if the setting, the owner
 * or any function has changed.
 */
static CqrsFunction *
setting_hook(SettingHook *setting, const char *name, const char *role,
			 const CqrsSignature *signature, Oid owner)
{
	MemoryContext context;
	MemoryContext caller;
	CqrsFunction hook;

	/* Before the lookup: a change during the lookup must invalidate it. */
	uint64		generation = cqrs_function_generation();
	CqrsFunctionKind kind = {
		.role = role,
		.nsignatures = 1,
		.signatures = signature,
		.stable = STABLE_BECAUSE
	};

	if (setting->context != NULL && setting->generation == generation &&
		setting->owner == owner && strcmp(setting->hook.name, name) == 0)
		return &setting->hook;

	context = AllocSetContextCreate(CurrentMemoryContext, "cqrs hooks",
									ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	(void) cqrs_function_find(&hook, name, &kind, owner);
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
