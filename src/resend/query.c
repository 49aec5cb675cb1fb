/*-------------------------------------------------------------------------
 *
 * query.c
 *	  The rows of a query, some at a time, out of the reach of SQL commands.
 *
 * Other functions run between two fetches, and the functions of the query
 * itself during a fetch.  Every portal has a name, also the unnamed ones of
 * SPI.  By that name such functions can close the portal, move it, or replace
 * it by one whose rows have other types.  So the executor is called directly,
 * as for functions in language SQL: no command can name the query, and its
 * tuple descriptor never changes.
 *
 * Resources (buffers, relations, the snapshot) belong to the resource owner
 * that is current when the query begins.  The same owner must be current in
 * all calls; the caller of a set-returning function ensures that.
 *
 * The executor's memory is in the context "cqrs query".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "executor/tuptable.h"
#include "nodes/params.h"
#include "nodes/plannodes.h"
#include "parser/parser.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/error_context.h"
#include "resend/query.h"

/* Keeps the rows that the executor gives. */
typedef struct RowReceiver
{
	DestReceiver receiver;		/* must be first */
	CqrsQuery  *query;
} RowReceiver;

struct CqrsQueryState
{
	MemoryContext context;		/* holds all of the query */
	QueryDesc  *desc;
	RowReceiver receiver;
	bool		at_end;			/* the executor must not be called again */
};

static PlannedStmt *plan_query(const char *text, int nparams,
							   const Oid *types, ParamListInfo params,
							   QueryEnvironment *env);
static ParamListInfo make_params(int nparams, const Oid *types,
								 const Datum *values);
static bool receive_row(TupleTableSlot *slot, DestReceiver *receiver);
static void start_receiver(DestReceiver *receiver, int operation,
						   TupleDesc desc);
static void no_action(DestReceiver *receiver);
static void error_context(void *arg);

CqrsQuery *
cqrs_query_begin(const char *text, int nparams, const Oid *types,
				 const Datum *values)
{
	return cqrs_query_begin_env(text, nparams, types, values, NULL);
}

CqrsQuery *
cqrs_query_begin_env(const char *text, int nparams, const Oid *types,
					 const Datum *values, QueryEnvironment *env)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cqrs query",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	CqrsQuery  *query = palloc0(sizeof(CqrsQuery));
	struct CqrsQueryState *state = palloc0(sizeof(struct CqrsQueryState));
	ParamListInfo params = make_params(nparams, types, values);
	ErrorContextCallback callback;
	PlannedStmt *plan;

	query->state = state;
	query->rows_context = AllocSetContextCreate(context, "cqrs query rows",
												ALLOCSET_DEFAULT_SIZES);
	state->context = context;
	text = pstrdup(text);

	state->receiver.receiver.receiveSlot = receive_row;
	state->receiver.receiver.rStartup = start_receiver;
	state->receiver.receiver.rShutdown = no_action;
	state->receiver.receiver.rDestroy = no_action;
	state->receiver.receiver.mydest = DestNone;
	state->receiver.query = query;

	cqrs_error_context_push(&callback, error_context,
							unconstify(char *, text));
	plan = plan_query(text, nparams, types, params, env);
	query->estimate = plan->planTree->plan_rows;
	state->desc = CreateQueryDesc(plan, text, GetActiveSnapshot(),
								  InvalidSnapshot,
								  &state->receiver.receiver, params, env, 0);
	ExecutorStart(state->desc, 0);
	query->desc = state->desc->tupDesc;
	cqrs_error_context_pop(&callback);

	MemoryContextSwitchTo(caller);
	return query;
}

uint64
cqrs_query_fetch(CqrsQuery *query, uint64 count)
{
	struct CqrsQueryState *state = query->state;

	MemoryContextReset(query->rows_context);
	query->nrows = 0;
	if (state->at_end)
		return 0;

	query->rows = MemoryContextAlloc(query->rows_context,
									 sizeof(HeapTuple) * count);
	PushActiveSnapshot(state->desc->snapshot);
	cqrs_executor_run(state->desc, count);
	PopActiveSnapshot();

	state->at_end = query->nrows < count;
	return query->nrows;
}

void
cqrs_query_end(CqrsQuery *query)
{
	struct CqrsQueryState *state = query->state;

	ExecutorFinish(state->desc);
	ExecutorEnd(state->desc);
	FreeQueryDesc(state->desc);
	MemoryContextDelete(state->context);
}

/*
 * The plan of a query, which must be one SELECT without side effects in WITH.
 */
static PlannedStmt *
plan_query(const char *text, int nparams, const Oid *types,
		   ParamListInfo params, QueryEnvironment *env)
{
	List	   *statements = raw_parser(text, RAW_PARSE_DEFAULT);
	List	   *queries;

	if (list_length(statements) != 1)
		elog(ERROR, "query has %d statements", list_length(statements));
	queries = pg_analyze_and_rewrite_fixedparams(linitial_node(RawStmt,
															   statements),
												 text, types, nparams, env);
	if (list_length(queries) != 1 ||
		linitial_node(Query, queries)->commandType != CMD_SELECT ||
		linitial_node(Query, queries)->hasModifyingCTE)
		elog(ERROR, "query is not a SELECT");
	return cqrs_plan_query(linitial_node(Query, queries), text,
						   CURSOR_OPT_NO_SCROLL, params);
}

/* The parameters, as constants so that the planner knows the values. */
static ParamListInfo
make_params(int nparams, const Oid *types, const Datum *values)
{
	ParamListInfo params;

	if (nparams == 0)
		return NULL;
	params = makeParamList(nparams);
	for (int i = 0; i < nparams; i++)
	{
		params->params[i].value = values[i];
		params->params[i].isnull = false;
		params->params[i].pflags = PARAM_FLAG_CONST;
		params->params[i].ptype = types[i];
	}
	return params;
}

/* Destination of rows: keep a copy of the row. */
static bool
receive_row(TupleTableSlot *slot, DestReceiver *receiver)
{
	CqrsQuery  *query = ((RowReceiver *) receiver)->query;
	MemoryContext caller = MemoryContextSwitchTo(query->rows_context);

	query->rows[query->nrows++] = ExecCopySlotHeapTuple(slot);
	MemoryContextSwitchTo(caller);
	return true;
}

static void
start_receiver(DestReceiver *receiver, int operation, TupleDesc desc)
{
}

static void
no_action(DestReceiver *receiver)
{
}

/* As SPI does: error positions are in this query, not in the caller's. */
static void
error_context(void *arg)
{
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) arg);
	}
	else
		errcontext("SQL statement \"%s\"", (const char *) arg);
}
