/*-------------------------------------------------------------------------
 *
 * loan.c
 *	  Commands that would leave something in the session of another role.
 *
 * A role that loads or applies messages lets the owner of the replica's table run
 * code in its session: triggers, and functions that they call.  What such code
 * leaves there acts later with the rights of the role: the query of a cursor WITH
 * HOLD at the commit, a temporary table or type that is found before others, a
 * prepared statement of a name that the session uses.  A security-restricted
 * operation would refuse most of these.  But PostgreSQL refuses deferred triggers in
 * one, too, and a child can come before its parent.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"

#include "base/security.h"
#include "ddl/loan.h"

static bool leaves_something(Node *statement);
static bool is_temporary(RangeVar *relation);
static bool is_named_temporary(List *name);

void
cqrs_loan_check(Node *statement)
{
	Oid			user;
	int			security;

	GetUserIdAndSecContext(&user, &security);
	if ((security & CQRS_SECURITY_ON_LOAN) == 0 || !leaves_something(statement))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("%s is not allowed here, because messages are applied for another role",
					CreateCommandName(statement)),
			 errdetail("Triggers and functions of a replica's owner cannot leave cursors WITH HOLD, temporary objects, prepared statements or LISTEN in the session of another role.")));
}

/* Whether something stays in the session after the command. */
static bool
leaves_something(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_DeclareCursorStmt:
			return (castNode(DeclareCursorStmt, statement)->options & CURSOR_OPT_HOLD) != 0;
		case T_CreateStmt:
			return is_temporary(castNode(CreateStmt, statement)->relation);
		case T_CreateTableAsStmt:
			return is_temporary(castNode(CreateTableAsStmt, statement)->into->rel);
		case T_ViewStmt:
			return is_temporary(castNode(ViewStmt, statement)->view);
		case T_CreateSeqStmt:
			return is_temporary(castNode(CreateSeqStmt, statement)->sequence);
		case T_CompositeTypeStmt:
			return is_temporary(castNode(CompositeTypeStmt, statement)->typevar);
		case T_DefineStmt:
			return is_named_temporary(castNode(DefineStmt, statement)->defnames);
		case T_CreateDomainStmt:
			return is_named_temporary(castNode(CreateDomainStmt, statement)->domainname);
		case T_CreateEnumStmt:
			return is_named_temporary(castNode(CreateEnumStmt, statement)->typeName);
		case T_CreateRangeStmt:
			return is_named_temporary(castNode(CreateRangeStmt, statement)->typeName);
		case T_CreateFunctionStmt:
			return is_named_temporary(castNode(CreateFunctionStmt, statement)->funcname);
		case T_PrepareStmt:
		case T_DeallocateStmt:
		case T_DiscardStmt:
		case T_ListenStmt:
		case T_UnlistenStmt:
			return true;
		default:
			return false;
	}
}

/* Whether a relation would be temporary, by its name or by the search path. */
static bool
is_temporary(RangeVar *relation)
{
	return relation->relpersistence == RELPERSISTENCE_TEMP ||
		isTempNamespace(RangeVarGetCreationNamespace(relation));
}

/* The same of a type, a function or the like. */
static bool
is_named_temporary(List *name)
{
	char	   *last;

	return isTempNamespace(QualifiedNameGetCreationNamespace(name, &last));
}
