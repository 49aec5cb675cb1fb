/*-------------------------------------------------------------------------
 *
 * guarded_hook.c
 *	  Functions that masters name, before and after a change of the schema.
 *
 * Masters name functions by text (master/hooks.c).  So a command that drops a
 * function, moves it to another schema or makes it VOLATILE does not touch the
 * master.  The functions that have the name are listed before the command, and
 * the master is checked after it if one of them is missing then.  An error
 * undoes the command with its (sub)transaction.
 *
 * Functions run with the rights of the table's owner, who trusts the owner of each.
 * Whoever becomes the owner of the table later may not, as with functions of
 * indexes.  So commands that change owners warn of functions whose owners can get
 * the rights of another role by replacing them.
 *
 * If a new option of masters names a function, it needs a line in hooks[].
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/caught.h"
#include "define/function.h"
#include "define/rights.h"
#include "master/hooks.h"
#include "master/master.h"
#include "master/options.h"
#include "schema/guarded_hook.h"
#include "schema/meaning.h"

/* Functions that masters name. */
static const CqrsOption hooks[] = {
	CQRS_OPTION_META, CQRS_OPTION_SERIALIZER, CQRS_OPTION_DELETE_DATA
};

struct CqrsGuardedHook
{
	char	   *cqrs_id;
	int			hook;			/* index of hooks[] */
	List	   *functions;		/* oids: that name, and not VOLATILE */
};

List *
cqrs_guarded_hook_list(List *rows)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, rows)
	{
		CqrsMasterRow *row = lfirst(lc);

		for (int i = 0; i < lengthof(hooks); i++)
		{
			const char *name = cqrs_master_text(row, hooks[i]);
			CqrsGuardedHook *facts;

			if (name == NULL)
				continue;
			facts = palloc(sizeof(CqrsGuardedHook));
			facts->cqrs_id = row->cqrs_id;
			facts->hook = i;
			facts->functions = cqrs_function_candidates(name, false);
			result = lappend(result, facts);
		}
	}
	return result;
}

List *
cqrs_guarded_hook_foreign(List *rows)
{
	List	   *result = NIL;
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, rows)
	{
		CqrsMasterRow *row = lfirst(lc);
		Oid			owner = cqrs_rights_table_owner(row->relid);

		for (int i = 0; i < lengthof(hooks); i++)
		{
			const char *name = cqrs_master_text(row, hooks[i]);

			if (name != NULL && OidIsValid(owner))
				result = cqrs_function_add_foreign(result, "master",
												   row->cqrs_id,
												   cqrs_options_master.infos[hooks[i]].name,
												   cqrs_hooks_function(hooks[i], name, row->relid),
												   owner);
		}
		foreach(lc2, cqrs_meaning_functions(row))
			result = cqrs_function_add_foreign(result, "master", row->cqrs_id,
											   cqrs_options_master.infos[CQRS_OPTION_SYNC_WHEN].name,
											   lfirst_oid(lc2), owner);
	}
	return result;
}

/*
 * If a function with a name that a master has given is gone or has become
 * VOLATILE, check that the master still has one that fits.
 */
void
cqrs_guarded_hook_check(const CqrsGuardedHook *before)
{
	CqrsMasterRow *row = cqrs_master_read(before->cqrs_id, true);
	MemoryContext context = CurrentMemoryContext;
	const char *name;
	Oid			owner;

	if (row == NULL)
		return;
	name = cqrs_master_text(row, hooks[before->hook]);
	if (name == NULL ||
		list_difference_oid(before->functions, cqrs_function_candidates(name, false)) == NIL)
		return;
	owner = cqrs_rights_table_owner(row->relid);
	if (!OidIsValid(owner))
		return;

	PG_TRY();
	{
		cqrs_hooks_check(hooks[before->hook], name, row->relid,
						 owner);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = cqrs_caught_copy();
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot change or drop the %s of master \"%s\"",
						cqrs_options_master.infos[hooks[before->hook]].role, row->cqrs_id),
				 errdetail("After the command: %s.", error->message),
				 errhint("Use cqrs_alter() to give the master another function or none.")));
	}
	PG_END_TRY();
}
