/*-------------------------------------------------------------------------
 *
 * function.c
 *	  Users' functions, by qualified name and exact signature.
 *
 * Functions are kept by their qualified names, so that a dump restores them.
 * They have to have one of some exact signatures, and the owner of the table
 * has to be allowed to call them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
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

/* Changes whenever a function may have. */
static uint64 generation = 1;

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
	const char *role = kind->role;
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
				 errmsg("%s \"%s\" is not qualified with a schema", role, name),
				 errdetail("The writer's search_path is not to choose it."),
				 errhint("Write it as schema.function.")));

	schema = schema_of(names, &unqualified);
	function = find_fitting(schema, unqualified, kind, &i);
	called = func_signature_string(names, signatures[0].nargs, NIL,
								   signatures[0].args);
	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("%s %s does not exist", role, called),
				 errdetail("The function must have exactly these arguments and return one %s.",
						   format_type_be(signatures[0].result)),
				 errhint("%s", kind->others != NULL ? kind->others :
						 "Create it, or name another one.")));

	called = func_signature_string(names, signatures[i].nargs, NIL,
								   signatures[i].args);
	if (kind->stable != NULL &&
		func_volatile(function) == PROVOLATILE_VOLATILE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("%s %s is VOLATILE", role, called),
				 errdetail("%s", kind->stable),
				 errhint("Declare the function STABLE or IMMUTABLE.")));
	if (cqrs_usage_aclcheck(schema, owner) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for schema %s", get_namespace_name(schema)),
				 errdetail("The schema contains the %s %s, which is called with the rights of role \"%s\".",
						   role, called, GetUserNameFromId(owner, true)),
				 errhint("Grant USAGE to role \"%s\".",
						 GetUserNameFromId(owner, true))));
	if (cqrs_execute_aclcheck(function, owner) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for %s %s", role, called),
				 errdetail("The function is called with the rights of role \"%s\".",
						   GetUserNameFromId(owner, true)),
				 errhint("Grant EXECUTE to role \"%s\".",
						 GetUserNameFromId(owner, true))));

	result->name = pstrdup(name);
	result->result = signatures[i].result;
	fmgr_info_cxt(function, &result->flinfo, CurrentMemoryContext);
	return i;
}

Oid
cqrs_function_owner(const char *name, const CqrsFunctionKind *kind)
{
	List	   *names = cqrs_qualified_name_list(name);
	char	   *unqualified;
	Oid			schema = schema_of(names, &unqualified);
	int			i;
	Oid			function = find_fitting(schema, unqualified, kind, &i);
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
				 errmsg("%s with OID %u does not exist",
						role, function),
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
