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

#include "compose/hook.h"
#include "master/relation.h"

PG_FUNCTION_INFO_V1(cqrs_sql_check_master);

/*
 * cqrs.check_master(cqrs_id text) RETURNS void: raises the error that a write
 * to the master's table would raise.
 */
Datum
cqrs_sql_check_master(PG_FUNCTION_ARGS)
{
	CqrsRelation *relation;
	CqrsMaster *master;
	Relation	rel = cqrs_relation_open(text_to_cstring(PG_GETARG_TEXT_PP(0)),
										 AccessShareLock, &relation, &master);
	CqrsHookScope scope;

	cqrs_hook_enter(&scope, rel, relation);
	cqrs_hook_check(relation, master);
	cqrs_hook_check_settings(relation, master);
	cqrs_hook_leave(&scope);
	table_close(rel, AccessShareLock);
	PG_RETURN_VOID();
}
