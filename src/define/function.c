/*-------------------------------------------------------------------------
 *
 * function.c
 *	  Users' functions, by qualified name and exact signature.
 *
 * Functions are kept by their qualified names, so that a dump restores them.
 * A function must have one of the exact signatures of its kind, and the owner
 * of the table must be allowed to call it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "define/function.h"

/* Changes whenever any function may have changed. */
static uint64 generation = 1;

static Oid	owner_of(Oid function);
static Oid	schema_of(List *names, char **unqualified);
static Oid	find_fitting(Oid schema, const char *name,
						 const CqrsFunctionKind *kind, int *signature);
static Oid	find_exact(Oid schema, const char *name,
					   const CqrsSignature *signature);
static void functions_changed(Datum arg, int cacheid, uint32 hashvalue);

int
cqrs_function_find(CqrsFunction *result, const char *name,
				   const CqrsFunctionKind *kind, Oid owner)
{
	const CqrsSignature *signatures = kind->signatures;
	List	   *names = cqrs_qualified_name_list(name);
	const char *called;
	Oid			schema;
	char	   *unqualified;
	Oid			function;
	int			i;

	/* Otherwise the session's search_path would choose the function. */
	if (list_length(names) < 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("function \"%s\" for \"%s\" is not qualified with a schema",
						name, kind->role),
				 errdetail("An unqualified name would be looked up in the writer's search_path."),
				 errhint("Write the name as schema.function.")));

	schema = schema_of(names, &unqualified);
	function = find_fitting(schema, unqualified, kind, &i);
	called = func_signature_string(names, signatures[0].nargs, NIL,
								   signatures[0].args);
	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s for \"%s\" does not exist",
						called, kind->role),
				 errdetail("The function must have exactly these arguments and return one %s.",
						   format_type_be(signatures[0].result)),
				 errhint("%s", kind->others != NULL ? kind->others :
						 "Create the function, or name another one.")));

	called = func_signature_string(names, signatures[i].nargs, NIL,
								   signatures[i].args);
	if (kind->stable != NULL &&
		func_volatile(function) == PROVOLATILE_VOLATILE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s for \"%s\" is VOLATILE", called, kind->role),
				 errdetail("%s", kind->stable),
				 errhint("Declare the function STABLE or IMMUTABLE.")));
	if (cqrs_usage_aclcheck(schema, owner) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for schema %s", get_namespace_name(schema)),
				 errdetail("The schema contains the function %s for \"%s\", which is called with the rights of role \"%s\".",
						   called, kind->role, GetUserNameFromId(owner, true)),
				 errhint("Grant USAGE to role \"%s\".",
						 GetUserNameFromId(owner, true))));
	if (cqrs_execute_aclcheck(function, owner) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for function %s", called),
				 errdetail("The function is for \"%s\", and is called with the rights of role \"%s\".",
						   kind->role, GetUserNameFromId(owner, true)),
				 errhint("Grant EXECUTE to role \"%s\".",
						 GetUserNameFromId(owner, true))));

	result->name = pstrdup(name);
	result->result = signatures[i].result;
	fmgr_info_cxt(function, &result->flinfo, CurrentMemoryContext);
	return i;
}

Oid
cqrs_function_oid(const char *name, const CqrsFunctionKind *kind)
{
	List	   *names = cqrs_qualified_name_list(name);
	char	   *unqualified;
	Oid			schema = schema_of(names, &unqualified);
	int			i;

	return find_fitting(schema, unqualified, kind, &i);
}

Oid
cqrs_function_owner(const char *name, const CqrsFunctionKind *kind)
{
	return owner_of(cqrs_function_oid(name, kind));
}

static Oid
owner_of(Oid function)
{
	HeapTuple	tuple;
	Oid			owner;

	if (!OidIsValid(function))
		return InvalidOid;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	return owner;
}

bool
cqrs_function_has_users_code(Oid function)
{
	HeapTuple	tuple;
	Oid			language = InvalidOid;

	if (function < FirstNormalObjectId)
		return false;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (HeapTupleIsValid(tuple))
	{
		language = ((Form_pg_proc) GETSTRUCT(tuple))->prolang;
		ReleaseSysCache(tuple);
	}
	return language != ClanguageId && language != INTERNALlanguageId;
}

List *
cqrs_function_add_foreign(List *list, const char *object, const char *cqrs_id,
						  const char *option, Oid function, Oid role)
{
	Oid			owner = owner_of(function);
	CqrsForeignFunction *foreign;

	/* A superuser has all rights, and a member of the role has its rights. */
	if (!OidIsValid(owner) || !OidIsValid(role) || has_privs_of_role(owner, role))
		return list;
	foreign = palloc(sizeof(CqrsForeignFunction));
	foreign->object = object;
	foreign->cqrs_id = cqrs_id;
	foreign->option = option;
	foreign->function = function;
	foreign->owner = owner;
	foreign->role = role;
	return lappend(list, foreign);
}

void
cqrs_function_warn_foreign(List *list, List *known)
{
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, list)
	{
		const CqrsForeignFunction *foreign = lfirst(lc);
		bool		is_known = false;
		const char *role;

		foreach(lc2, known)
		{
			const CqrsForeignFunction *other = lfirst(lc2);

			if (strcmp(other->cqrs_id, foreign->cqrs_id) == 0 &&
				other->function == foreign->function &&
				other->owner == foreign->owner &&
				other->role == foreign->role)
				is_known = true;
		}
		if (is_known)
			continue;
		role = GetUserNameFromId(foreign->role, false);
		ereport(WARNING,
				(errmsg("function %s runs with the rights of role \"%s\", and belongs to role \"%s\"",
						format_procedure(foreign->function), role,
						GetUserNameFromId(foreign->owner, false)),
				 errdetail("The function is for \"%s\" of %s \"%s\". Its owner can replace it, and so do whatever role \"%s\" may do.",
						   foreign->option, foreign->object, foreign->cqrs_id,
						   role),
				 errhint("Use ALTER FUNCTION ... OWNER TO to give the function to role \"%s\", unless its owner is trusted.",
						 role)));
	}
}

/*
 * The function of a schema that has one of the signatures of a kind, and the
 * number of the signature; or InvalidOid.
 */
static Oid
find_fitting(Oid schema, const char *name, const CqrsFunctionKind *kind,
			 int *signature)
{
	for (int i = 0; i < kind->nsignatures; i++)
	{
		Oid			function = find_exact(schema, name, &kind->signatures[i]);

		*signature = i;
		if (OidIsValid(function) &&
			get_func_rettype(function) == kind->signatures[i].result &&
			get_func_prokind(function) == PROKIND_FUNCTION &&
			!get_func_retset(function))
			return function;
	}
	return InvalidOid;
}

/*
 * The schema in a qualified name, whatever rights the current user has on it;
 * InvalidOid if there is no schema of that name.
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
find_exact(Oid schema, const char *name, const CqrsSignature *signature)
{
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
						   CStringGetDatum(name),
						   PointerGetDatum(buildoidvector(signature->args,
														  signature->nargs)),
						   ObjectIdGetDatum(schema));
}

List *
cqrs_function_candidates(const char *name, bool with_volatile)
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
			(with_volatile || form->provolatile != PROVOLATILE_VOLATILE))
			functions = lappend_oid(functions, form->oid);
	}
	ReleaseSysCacheList(list);
	return functions;
}

char *
cqrs_function_qualified_name(const char *role, Oid function)
{
	char	   *name = get_func_name(function);

	/* Anything can be cast to regproc, and a function can be dropped. */
	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u for \"%s\" does not exist",
						function, role),
				 errdetail("The option takes the name of a function, or null for none."),
				 errhint("Create the function, or name another one.")));
	return quote_qualified_identifier(get_namespace_name(get_func_namespace(function)),
									  name);
}

uint64
cqrs_function_generation(void)
{
	static bool watching = false;

	if (!watching)
		CacheRegisterSyscacheCallback(PROCOID, functions_changed, (Datum) 0);
	watching = true;
	return generation;
}

static void
functions_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	generation++;
}
