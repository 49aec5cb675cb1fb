/*-------------------------------------------------------------------------
 *
 * check_master.c
 *	  cqrs.check_master: whether a master still fits its table and functions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "base/caught.h"
#include "compose/hook.h"
#include "master/relation.h"

PG_FUNCTION_INFO_V1(cqrs_sql_check_master);

static void check(const char *cqrs_id);

/*
 * cqrs.check_master(cqrs_id text) RETURNS void: raises the error that a write
 * to the master's table would raise.
 *
 * Functions in sync_when may be evaluated, and the owner chooses their errors.
 * cqrs_check() catches OTHERS, which leaves out two errors: from a function they
 * are others.
 */
Datum
cqrs_sql_check_master(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		check(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = cqrs_caught_copy();
		if ((error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
			 !cqrs_caught_is_cancel(error)) ||
			error->sqlerrcode == ERRCODE_ASSERT_FAILURE)
			error->sqlerrcode = ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;
		FlushErrorState();
		ReThrowError(error);
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}

static void
check(const char *cqrs_id)
{
	CqrsRelation *relation;
	CqrsMaster *master;
	Relation	rel = cqrs_relation_open(cqrs_id, AccessShareLock, &relation,
										 &master);
	CqrsHookScope scope;

	cqrs_hook_enter(&scope, rel, relation);
	cqrs_hook_check(relation, master);
	cqrs_hook_check_settings(relation, master);
	cqrs_hook_leave(&scope);
	table_close(rel, AccessShareLock);
}
