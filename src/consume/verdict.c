/*-------------------------------------------------------------------------
 *
 * verdict.c
 *	  When a failed message is tried again, if ever.
 *
 * Attempts begin at the number of retries that the message brings along, as
 * with django-cqrs.  The delay doubles with each, from the replica's
 * retry_delay up to cqrs.retry_delay_max.  If a neighbour of the row may be
 * missing because it is on its way, the delays are short.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "apply/incoming.h"
#include "base/caught.h"
#include "base/guc.h"
#include "consume/verdict.h"
#include "define/function.h"
#include "replica/handler.h"
#include "worker/worker.h"

/* Of a replica that cannot be looked up. */
#define DEFAULT_MAX_RETRIES		30
#define DEFAULT_DELAY_MS		2000
/* Delays where a neighbour may be missing. */
#define NEIGHBOUR_DELAY_MS		100
#define NEIGHBOUR_DELAY_MAX_MS	60000

/* A question to the function "retry". */
typedef struct Question
{
	const CqrsReplica *replica;
	const CqrsIncoming *message;
	const CqrsFailedState *state;
	TimestampTz next_try;		/* the answer */
} Question;

static bool ask(const CqrsReplica *replica, const CqrsIncoming *message,
				const CqrsFailedState *state, TimestampTz *next_try);
static void put(void *arg);
static TimestampTz call(const CqrsReplica *replica,
						const CqrsIncoming *message,
						const CqrsFailedState *state);
static int64 delay_ms(const CqrsReplica *replica, int attempts, int code);
static bool is_neighbours(int code);

void
cqrs_verdict_describe(const ErrorData *error, bool timed_out,
					  CqrsProblem *problem)
{
	problem->code = error->sqlerrcode;
	strlcpy(problem->sqlstate, unpack_sql_state(error->sqlerrcode),
			sizeof(problem->sqlstate));
	problem->timed_out = timed_out;
	problem->message = pstrdup(timed_out ?
							   "the message took longer than \"cqrs.apply_timeout\"" :
							   error->message);
	problem->full = psprintf("%s%s%s", problem->message,
							 error->detail != NULL ? "\n" : "",
							 error->detail != NULL ? error->detail : "");
}

/*
 * No list of errors can be complete.  So the batch finds out whether a
 * transaction without the message commits.
 */
bool
cqrs_verdict_may_pass(const CqrsProblem *problem)
{
	switch (ERRCODE_TO_CATEGORY(problem->code))
	{
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_INVALID_TRANSACTION_STATE:
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_INTERNAL_ERROR:
			return !problem->timed_out;
		default:
			return problem->code == ERRCODE_LOCK_NOT_AVAILABLE;
	}
}

bool
cqrs_verdict_counts(const CqrsProblem *problem)
{
	return !cqrs_verdict_may_pass(problem) ||
		ERRCODE_TO_CATEGORY(problem->code) == ERRCODE_INTERNAL_ERROR;
}

void
cqrs_verdict_decide(const CqrsReplica *replica, const CqrsIncoming *message,
					int attempts, const CqrsProblem *problem, bool counts,
					CqrsFailedState *state)
{
	int			max_retries = replica != NULL ? replica->max_retries :
	DEFAULT_MAX_RETRIES;

	state->attempts = attempts;
	if (counts && attempts < PG_INT32_MAX)
		state->attempts++;
	state->sqlstate = problem->sqlstate;
	state->error = problem->full;
	if (counts && max_retries >= 0 && attempts >= max_retries)
		state->next_try = 0;
	else if (!counts || replica == NULL || replica->retry == NULL ||
			 replica->owner != GetUserId() ||
			 !ask(replica, message, state, &state->next_try))
		state->next_try =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
										delay_ms(replica, attempts,
												 problem->code));
}

/*
 * Ask the function "retry" of a replica, in a subtransaction.  Returns false if
 * it has failed.
 */
static bool
ask(const CqrsReplica *replica, const CqrsIncoming *message,
	const CqrsFailedState *state, TimestampTz *next_try)
{
	Question	question = {.replica = replica,.message = message,.state = state};
	ErrorData  *error = cqrs_caught_run(put, &question);

	if (error != NULL)
	{
		cqrs_worker_set_error(error->message);
		return false;
	}
	*next_try = question.next_try;
	return true;
}

/* Put a question. */
static void
put(void *arg)
{
	Question   *question = arg;

	PushActiveSnapshot(GetTransactionSnapshot());
	question->next_try = call(question->replica, question->message,
							  question->state);
	PopActiveSnapshot();
}

/* The time of the next try; 0 if the function gives up. */
static TimestampTz
call(const CqrsReplica *replica, const CqrsIncoming *message,
	 const CqrsFailedState *state)
{
	CqrsFunction function;
	Datum		result;

	LOCAL_FCINFO(fcinfo, 4);

	(void) cqrs_function_find(&function, replica->retry,
							  cqrs_handler_retry_kind(), replica->owner);
	InitFunctionCallInfoData(*fcinfo, &function.flinfo, 4, InvalidOid, NULL,
							 NULL);
	memset(fcinfo->args, 0, sizeof(NullableDatum) * 4);
	fcinfo->args[0].value = cqrs_incoming_to_datum(message);
	fcinfo->args[1].value = Int32GetDatum(state->attempts);
	fcinfo->args[2].value = CStringGetTextDatum(state->sqlstate);
	fcinfo->args[3].value = CStringGetTextDatum(state->error);
	result = FunctionCallInvoke(fcinfo);
	if (fcinfo->isnull)
		return 0;
	result = DirectFunctionCall2(timestamptz_pl_interval,
								 TimestampTzGetDatum(GetCurrentTimestamp()),
								 result);
	/* A time that has passed is one that is due; infinity gives up. */
	if (TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(result)))
		return 0;
	return Max(DatumGetTimestampTz(result), 1);
}

/*
 * Milliseconds up to the next try: retry_delay, doubled by each attempt, up to
 * cqrs.retry_delay_max.  "code" is that of the error.
 */
static int64
delay_ms(const CqrsReplica *replica, int attempts, int code)
{
	double		first = replica != NULL ? replica->retry_delay_ms :
	DEFAULT_DELAY_MS;
	double		last = cqrs_retry_delay_max_ms;

	if (is_neighbours(code))
	{
		first = Min(first, NEIGHBOUR_DELAY_MS);
		last = Min(last, NEIGHBOUR_DELAY_MAX_MS);
	}
	return (int64) Min(first * (double) (UINT64CONST(1) << Min(Max(attempts, 0), 40)),
					   last);
}

/* Whether a row that this one refers to, or collides with, may be missing. */
static bool
is_neighbours(int code)
{
	return code == ERRCODE_FOREIGN_KEY_VIOLATION ||
		code == ERRCODE_UNIQUE_VIOLATION ||
		code == ERRCODE_EXCLUSION_VIOLATION;
}
