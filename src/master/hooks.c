/*-------------------------------------------------------------------------
 *
 * hooks.c
 *	  Users' functions that take part in making messages, looked up.
 *
 * The name of a function is looked up once, and again after any change in
 * pg_proc.  What was looked up has the state of a call (in FmgrInfo, and in the
 * compiled sync_when), so it serves one call at a time.  A hook can lead to a
 * call of the same hook: a serializer may call cqrs_to_json() of its master.
 * So hooks are taken for a call and given back after it.  The inner call finds
 * none, and looks them up for itself.
 *
 * Hooks that are not in use are kept in a list: those of a master in the cache
 * of relation.c, those of settings here.  Hooks in use belong to the
 * (sub)transaction.  If it fails, it frees them, together with the state of the
 * call that was not completed.
 *
 * Hooks must be STABLE or IMMUTABLE.  hook.c ensures that they do not write
 * while they run.  They must have one of some exact signatures, and the owner
 * of the table must be allowed to call them.
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

/* How many wait in a list: an inner call in an inner call is rare. */
#define MAX_IDLE	3

/* What is required of the function of an option. */
typedef struct HookKind
{
	CqrsFunctionKind kind;
	CqrsSignature signatures[4];
} HookKind;

static CqrsHooks *idle_meta = NULL;
static CqrsHooks *idle_correlation = NULL;

static CqrsHooks *take_idle(CqrsHooks **idle, const char *setting, Oid owner);
static CqrsHooks *make(CqrsHooks **idle, MemoryContext home, Oid owner);
static CqrsHooks *take_setting(CqrsHooks **idle, const char *name,
							   const char *role,
							   const CqrsSignature *signature, Oid owner);
static void look_up_hooks(const CqrsRelation *relation, CqrsMaster *master,
						  CqrsHooks *hooks);
static int	find_hook(CqrsFunction *hook, CqrsOption option, const char *name,
					  Oid root, Oid owner);
static const CqrsFunctionKind *kind_of(HookKind *result, CqrsOption option,
									   Oid root);

CqrsHooks *
cqrs_hooks_take(const CqrsRelation *relation, CqrsMaster *master)
{
	CqrsHooks  *hooks = take_idle(&master->hooks, NULL, relation->owner);
	MemoryContext caller;

	if (hooks != NULL)
		return hooks;

	/* Later callers reuse what is looked up and folded here. */
	if (cqrs_master_has_hooks(master) &&
		(GetUserId() != relation->owner || !InSecurityRestrictedOperation()))
		elog(ERROR, "hooks of master \"%s\" are looked up without the rights of its owner",
			 master->cqrs_id);

	hooks = make(&master->hooks, GetMemoryChunkContext(master),
				 relation->owner);
	caller = MemoryContextSwitchTo(hooks->context);
	look_up_hooks(relation, master, hooks);
	MemoryContextSwitchTo(caller);
	return hooks;
}

CqrsHooks *
cqrs_hooks_take_meta_setting(Oid owner)
{
	static const CqrsSignature signature = {4, {TEXTOID, TEXTOID, JSONBOID, JSONBOID}, JSONBOID};

	return take_setting(&idle_meta, cqrs_meta_function, "cqrs.meta_function",
						&signature, owner);
}

CqrsHooks *
cqrs_hooks_take_correlation_setting(Oid owner)
{
	static const CqrsSignature signature = {4, {TEXTOID, TEXTOID, TEXTOID, TEXTOID}, TEXTOID};

	return take_setting(&idle_correlation, cqrs_correlation_function,
						"cqrs.correlation_function", &signature, owner);
}

void
cqrs_hooks_give_back(CqrsHooks *hooks)
{
	int			nidle = 0;

	for (CqrsHooks *other = *hooks->idle; other != NULL; other = other->next)
		nidle++;
	if (nidle >= MAX_IDLE)
	{
		MemoryContextDelete(hooks->context);
		return;
	}
	MemoryContextSetParent(hooks->context, hooks->home);
	hooks->next = *hooks->idle;
	*hooks->idle = hooks;
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
 * Take hooks from a list; NULL if there are none.  Those that were looked up for
 * another owner or another value of the setting, or before a function has
 * changed, are freed.  "setting" is NULL for the hooks of a master.
 */
static CqrsHooks *
take_idle(CqrsHooks **idle, const char *setting, Oid owner)
{
	uint64		generation = cqrs_function_generation();
	CqrsHooks  *hooks;

	/* Hooks may lead to themselves without end. */
	check_stack_depth();

	while ((hooks = *idle) != NULL)
	{
		*idle = hooks->next;
		if (hooks->generation == generation && hooks->owner == owner &&
			(setting == NULL || strcmp(hooks->setting.name, setting) == 0))
		{
			MemoryContextSetParent(hooks->context, CurTransactionContext);
			return hooks;
		}
		MemoryContextDelete(hooks->context);
	}
	return NULL;
}

/*
 * Hooks without functions, taken.  If a function changes while they are looked
 * up, they are looked up anew when they are taken again.
 */
static CqrsHooks *
make(CqrsHooks **idle, MemoryContext home, Oid owner)
{
	MemoryContext context = AllocSetContextCreate(CurTransactionContext,
												  "cqrs hooks",
												  ALLOCSET_SMALL_SIZES);
	CqrsHooks  *hooks = MemoryContextAllocZero(context, sizeof(CqrsHooks));

	hooks->context = context;
	hooks->generation = cqrs_function_generation();
	hooks->owner = owner;
	hooks->idle = idle;
	hooks->home = home;
	return hooks;
}

static CqrsHooks *
take_setting(CqrsHooks **idle, const char *name, const char *role,
			 const CqrsSignature *signature, Oid owner)
{
	CqrsHooks  *hooks = take_idle(idle, name, owner);
	MemoryContext caller;
	CqrsFunctionKind kind = {
		.role = role,
		.nsignatures = 1,
		.signatures = signature,
		.stable = STABLE_BECAUSE
	};

	if (hooks != NULL)
		return hooks;
	hooks = make(idle, TopMemoryContext, owner);
	caller = MemoryContextSwitchTo(hooks->context);
	(void) cqrs_function_find(&hooks->setting, name, &kind, owner);
	MemoryContextSwitchTo(caller);
	return hooks;
}
