/*-------------------------------------------------------------------------
 *
 * wait_applied.c
 *	  cqrs_wait_applied: waits until the consumer has applied a change.
 *
 * A procedure, because a function runs under the snapshot of its query: held
 * for the whole wait, the snapshot would keep VACUUM from removing rows.
 *
 * A look at the row and at cqrs.failed takes place in a subtransaction that is
 * rolled back: so locks and snapshot of the look end with it.  Between two
 * looks the session waits for the next commit of the consumer (applied.c).
 * The findings of a look are in a memory context that the next look resets,
 * because a wait may last for days.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "apply/finder.h"
#include "apply/settings.h"
#include "base/caught.h"
#include "consume/applied.h"
#include "consume/failed.h"

PG_FUNCTION_INFO_V1(cqrs_wait_applied);

/* The change that is waited for, and what the looks have found. */
typedef struct Wait
{
	char	   *cqrs_id;
	char	   *key;			/* JSON, in an array */
	bool		is_delete;
	int64		revision;		/* unless is_delete */
	bool		was_there;		/* the row, at one of the looks */
	const char *outcome;		/* NULL: none yet */
	MemoryContext found;		/* of the next field, and of what a look
								 * takes; reset with each look */
	char	   *error;			/* of the failed message, or NULL */
} Wait;

static Wait *read_arguments(FunctionCallInfo fcinfo);
static void check_not_null(FunctionCallInfo fcinfo, int n, const char *name);
static TimestampTz read_deadline(FunctionCallInfo fcinfo);
static void release_snapshots(void);
static void look(Wait *wait);
static void look_under_snapshot(void *arg);
static void look_at_row(Wait *wait);
static void look_at_failed(Wait *wait, const CqrsMapping *mapping,
						   const CqrsJsonValue *key);
static bool is_waited_for(const Wait *wait, const CqrsMapping *mapping,
						  const CqrsFailed *failed);

/*
 * cqrs_wait_applied(cqrs_id text, instance_pk jsonb, revision bigint,
 * timeout interval, INOUT outcome text, INOUT error text)
 */
Datum
cqrs_wait_applied(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	TimestampTz deadline;
	Wait	   *wait;
	Datum		values[2] = {0};
	bool		nulls[2] = {false};

	PreventCommandDuringRecovery("cqrs_wait_applied()");
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	wait = read_arguments(fcinfo);
	deadline = read_deadline(fcinfo);
	release_snapshots();

	while (wait->outcome == NULL)
	{
		uint64		commits = cqrs_applied_commits();

		look(wait);
		if (wait->outcome != NULL)
			continue;
		/* A busy consumer commits during each look. */
		if (cqrs_applied_wait(commits, deadline) &&
			GetCurrentTimestamp() < deadline)
			continue;
		/* Not only the consumer writes to the table. */
		look(wait);
		if (wait->outcome == NULL)
			wait->outcome = wait->error != NULL ? "failed" : "timeout";
	}

	values[0] = CStringGetTextDatum(wait->outcome);
	nulls[1] = wait->error == NULL;
	if (!nulls[1])
		values[1] = CStringGetTextDatum(wait->error);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/* The arguments in the current context, checked. */
static Wait *
read_arguments(FunctionCallInfo fcinfo)
{
	Wait	   *wait = palloc0(sizeof(Wait));
	Jsonb	   *key;

	check_not_null(fcinfo, 0, "cqrs_id");
	check_not_null(fcinfo, 1, "instance_pk");
	wait->cqrs_id = text_to_cstring(PG_GETARG_TEXT_PP(0));
	key = PG_GETARG_JSONB_P(1);
	wait->key = psprintf("[%s]", JsonbToCString(NULL, &key->root, VARSIZE(key)));
	wait->found = AllocSetContextCreate(CurrentMemoryContext,
										"cqrs wait found",
										ALLOCSET_SMALL_SIZES);
	wait->is_delete = PG_ARGISNULL(2);
	if (!wait->is_delete)
		wait->revision = PG_GETARG_INT64(2);
	return wait;
}

static void
check_not_null(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"%s\" must not be null", name)));
}

/* When the wait ends; DT_NOEND: it does not. */
static TimestampTz
read_deadline(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(3))
		return DT_NOEND;
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												   TimestampTzGetDatum(GetCurrentTimestamp()),
												   PG_GETARG_DATUM(3)));
}

/*
 * Give up the snapshots of the CALL, as COMMIT in a procedure does.  PostgreSQL
 * takes a new one after the procedure.
 */
static void
release_snapshots(void)
{
	Portal		portal = ActivePortal;

	if (portal != NULL && portal->holdSnapshot != NULL)
	{
		UnregisterSnapshotFromOwner(portal->holdSnapshot, portal->resowner);
		portal->holdSnapshot = NULL;
	}
	if (portal != NULL && portal->portalSnapshot != NULL &&
		ActiveSnapshotSet() && GetActiveSnapshot() == portal->portalSnapshot)
	{
		PopActiveSnapshot();
		portal->portalSnapshot = NULL;
	}
	InvalidateCatalogSnapshot();
	if (TransactionIdIsValid(MyProc->xmin))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cqrs_wait_applied() cannot wait while the transaction holds a snapshot"),
				 errdetail("A snapshot is held by an isolation level above READ COMMITTED, by a function that calls the procedure, and by an open cursor."),
				 errhint("Call cqrs_wait_applied() at the top level, in a READ COMMITTED transaction without open cursors.")));
}

/* Look whether the change has been applied, or has failed. */
static void
look(Wait *wait)
{
	MemoryContext caller = CurrentMemoryContext;
	ErrorData  *error;

	MemoryContextReset(wait->found);
	wait->error = NULL;
	MemoryContextSwitchTo(wait->found);
	error = cqrs_caught_run_undone(look_under_snapshot, wait);
	MemoryContextSwitchTo(caller);
	InvalidateCatalogSnapshot();
	if (error != NULL)
		ReThrowError(error);
}

/* Set the outcome, if the row shows it; else look for a failed message. */
static void
look_under_snapshot(void *arg)
{
	PushActiveSnapshot(GetTransactionSnapshot());
	cqrs_settings_pin(GUC_ACTION_LOCAL);
	SPI_connect();
	look_at_row(arg);
	SPI_finish();
}

static void
look_at_row(Wait *wait)
{
	CqrsFinder *finder = cqrs_finder_begin(wait->cqrs_id);
	CqrsJsonValue json = {.kind = CQRS_JSON_ARRAY,.start = wait->key,
	.length = strlen(wait->key)};
	CqrsJsonMembers elements = {0};
	Datum		key[INDEX_MAX_KEYS];
	CqrsFoundRow row;

	cqrs_json_scan_array(&json, &elements);
	cqrs_finder_read_key(finder, &elements.members[0].value, key);
	row = cqrs_finder_find(finder, key);
	if (wait->is_delete ? !row.alive : row.revision >= wait->revision)
		wait->outcome = "applied";
	else if (!wait->is_delete && wait->was_there && !row.alive)
		wait->outcome = "deleted";
	else
		look_at_failed(wait, &finder->mapping, &elements.members[0].value);
	wait->was_there = wait->was_there || row.alive;
	cqrs_finder_end(finder);
}

/*
 * Look at the messages of the row that have failed.  A dead letter is an
 * outcome.  The error of any other failed message is returned after the
 * timeout.
 */
static void
look_at_failed(Wait *wait, const CqrsMapping *mapping, const CqrsJsonValue *key)
{
	char	   *instance_pk = cqrs_envelope_compact_key(key);
	ListCell   *lc;

	if (instance_pk == NULL || !cqrs_failed_any())
		return;
	foreach(lc, cqrs_failed_find(wait->cqrs_id, instance_pk, PG_INT64_MAX))
	{
		CqrsFailed *failed = cqrs_failed_read(((CqrsFailed *) lfirst(lc))->id);

		if (failed == NULL || !is_waited_for(wait, mapping, failed))
			continue;
		wait->error = MemoryContextStrdup(wait->found, failed->error);
		if (failed->next_try == 0)
			wait->outcome = "failed";
	}
}

/* Whether a failed message has the change, or a later state of the row. */
static bool
is_waited_for(const Wait *wait, const CqrsMapping *mapping,
			  const CqrsFailed *failed)
{
	CqrsIncoming message = {.body = failed->body,.length = failed->length};
	int64		revision;

	if (wait->is_delete)
		return failed->signal == CQRS_SIGNAL_DELETE;
	return failed->signal != CQRS_SIGNAL_DELETE &&
		cqrs_envelope_read(&message) == NULL &&
		cqrs_envelope_revision(&message,
							   mapping->columns[mapping->revision].key,
							   &revision) &&
		revision >= wait->revision;
}
