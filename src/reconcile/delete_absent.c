/*-------------------------------------------------------------------------
 *
 * delete_absent.c
 *	  cqrs_deleted_sync_replica: rows that the master does not have any more
 *	  are deleted.
 *
 * Each row is deleted as by a DELETE of the master: with the rights of the
 * owner, by the handler or the column of soft_delete if there is one.  The
 * keys were listed at the time of the first line; a row that the master has
 * written since is a new one, and stays.
 *
 * Failed messages.  What waits in cqrs.failed for a retry would bring the row
 * back, or bring one that was never there.  So, as a DELETE of the master would
 * do it (consume/earlier.c), messages that are not later than the first line
 * go with the row, dead letters included, and also where there is no row.  One
 * whose time cannot be read stays.  With a handler a DELETE waits behind such
 * messages, since they may be about a part of the state.  There is nothing to wait
 * in here, so the row stays until a later call.
 *
 * Locks.  The rows of cqrs.failed are locked first and then the row of the table,
 * as the consumer does it: when a retry has ended, either its message is still
 * there or its row.  Locks are waited for, as for rows of the table: a retry takes
 * a fraction of a second, an error would be all that most callers see of it, and
 * lock_timeout bounds the wait for a user's transaction.  To be in nobody's way
 * meanwhile, all failed messages are locked before the first row.  The consumer
 * waits for none of them, so it cannot close a circle with these.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "apply/apply.h"
#include "apply/envelope.h"
#include "apply/finder.h"
#include "apply/iso_time.h"
#include "apply/on_behalf.h"
#include "compose/value.h"
#include "consume/failed.h"
#include "reconcile/lines.h"

PG_FUNCTION_INFO_V1(cqrs_deleted_sync_replica);

/* The function in progress. */
typedef struct Deletion
{
	CqrsLines	lines;
	CqrsFinder *finder;
	CqrsOnBehalf behalf;
	MemoryContext context;		/* reset after each line */
	int64		deleted;
} Deletion;

static void check_owner(const CqrsReplica *replica);
static void for_each_key(Deletion *deletion,
						 void (*act) (Deletion *deletion,
									  const CqrsJsonValue *key));
static void lock_failed(Deletion *deletion, const CqrsJsonValue *key);
static void delete_key(Deletion *deletion, const CqrsJsonValue *key);
static List *earlier_failed(Deletion *deletion, const char *instance_pk);
static bool is_earlier(const Deletion *deletion, const CqrsFailed *failed);
static bool any_waits(List *failed);
static CqrsOutcome delete_row(Deletion *deletion, char *instance_pk,
							  int64 revision);

/* cqrs_deleted_sync_replica(lines text[]) RETURNS bigint */
Datum
cqrs_deleted_sync_replica(PG_FUNCTION_ARGS)
{
	Deletion	deletion = {0};
	const CqrsReplica *replica;
	MemoryContext caller;
	bool		any_failed;

	PreventCommandIfReadOnly("cqrs_deleted_sync_replica()");
	deletion.lines = cqrs_lines_read(PG_GETARG_ARRAYTYPE_P(0),
									 "cqrs_deleted_diff_master");
	if (deletion.lines.first == NULL)
		PG_RETURN_INT64(0);
	replica = cqrs_on_behalf_find(deletion.lines.cqrs_id);
	check_owner(replica);

	SPI_connect();
	cqrs_on_behalf_begin(&deletion.behalf, replica->owner);
	PushActiveSnapshot(GetTransactionSnapshot());
	deletion.finder = cqrs_finder_begin(deletion.lines.cqrs_id);
	PopActiveSnapshot();
	deletion.context = AllocSetContextCreate(CurrentMemoryContext,
											 "cqrs deleted line",
											 ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(deletion.context);
	PushActiveSnapshot(GetTransactionSnapshot());
	any_failed = cqrs_failed_any();
	PopActiveSnapshot();
	if (any_failed)
		for_each_key(&deletion, lock_failed);
	for_each_key(&deletion, delete_key);
	MemoryContextSwitchTo(caller);
	cqrs_finder_end(deletion.finder);
	cqrs_on_behalf_check_constraints();
	cqrs_on_behalf_end(&deletion.behalf);
	SPI_finish();
	PG_RETURN_INT64(deletion.deleted);
}

/* Raise an error unless the user has the rights of the replica's owner. */
static void
check_owner(const CqrsReplica *replica)
{
	if (!has_privs_of_role(GetUserId(), replica->owner))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE,
					   OidIsValid(replica->relid) ?
					   get_rel_name(replica->relid) : replica->cqrs_id);
}

/*
 * Call "act" for each key of each line.  The current context is reset after
 * each line.
 */
static void
for_each_key(Deletion *deletion,
			 void (*act) (Deletion *deletion, const CqrsJsonValue *key))
{
	for (int i = 0; i < list_length(deletion->lines.lines); i++)
	{
		CqrsJsonMembers elements = {0};

		cqrs_lines_elements(list_nth(deletion->lines.lines, i), i + 1, &elements);
		for (int j = 0; j < elements.nmembers; j++)
		{
			CHECK_FOR_INTERRUPTS();
			act(deletion, &elements.members[j].value);
		}
		MemoryContextReset(deletion->context);
	}
}

/*
 * For for_each_key(): lock the failed messages about a row, to the end of the
 * transaction.  Waits for others that have them.
 */
static void
lock_failed(Deletion *deletion, const CqrsJsonValue *key)
{
	(void) cqrs_failed_lock_all(deletion->lines.cqrs_id, cqrs_lines_key(key));
}

/*
 * For for_each_key(): delete the row of a key, and its failed messages, if
 * they are not later than the lines.
 */
static void
delete_key(Deletion *deletion, const CqrsJsonValue *key)
{
	Datum		values[INDEX_MAX_KEYS];
	CqrsOutcome outcome = CQRS_OUTCOME_ABSENT;
	const CqrsReplica *replica;
	char	   *instance_pk;
	List	   *failed;
	CqrsFoundRow row;
	ListCell   *lc;

	cqrs_finder_read_key(deletion->finder, key, values);
	instance_pk = cqrs_lines_key(key);
	failed = earlier_failed(deletion, instance_pk);
	/* The wait may have accepted invalidations. */
	replica = cqrs_on_behalf_find(deletion->lines.cqrs_id);
	if (replica->relid != RelationGetRelid(deletion->finder->rel))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("replica \"%s\" was changed concurrently",
						replica->cqrs_id)));
	if (replica->handler != NULL && any_waits(failed))
		return;
	PushActiveSnapshot(GetLatestSnapshot());
	row = cqrs_finder_find(deletion->finder, values);
	PopActiveSnapshot();
	if (row.alive)
		outcome = delete_row(deletion, instance_pk, row.revision);
	if (outcome == CQRS_OUTCOME_DELETED || outcome == CQRS_OUTCOME_HANDLED)
		deletion->deleted++;
	if (outcome != CQRS_OUTCOME_DELETED && outcome != CQRS_OUTCOME_ABSENT)
		return;
	foreach(lc, failed)
		cqrs_failed_delete(((CqrsFailed *) lfirst(lc))->id);
}

/* The failed messages of a row that are not later than the lines, locked. */
static List *
earlier_failed(Deletion *deletion, const char *instance_pk)
{
	List	   *failed = cqrs_failed_lock_all(deletion->lines.cqrs_id,
											  instance_pk);
	ListCell   *lc;

	foreach(lc, failed)
	{
		if (!is_earlier(deletion, lfirst(lc)))
			failed = foreach_delete_current(failed, lc);
	}
	return failed;
}

/*
 * Whether a failed message is not later than the lines; false if its time
 * cannot be read.
 */
static bool
is_earlier(const Deletion *deletion, const CqrsFailed *failed)
{
	const CqrsMapping *mapping = &deletion->finder->mapping;
	CqrsIncoming message = {.body = failed->body,.length = failed->length};
	const CqrsJsonValue *updated;
	TimestampTz time;

	if (cqrs_envelope_read(&message) != NULL)
		return false;
	updated = cqrs_json_scan_find(&message.data,
								  message.signal == CQRS_SIGNAL_DELETE ? "cqrs_updated" :
								  mapping->columns[mapping->updated].key);
	return updated != NULL && updated->kind == CQRS_JSON_STRING &&
		cqrs_iso_time_read(updated->start + 1, updated->length - 2, &time) &&
		time <= deletion->lines.time;
}

/* Whether any of these failed messages is to be tried again. */
static bool
any_waits(List *failed)
{
	ListCell   *lc;

	foreach(lc, failed)
	{
		if (((CqrsFailed *) lfirst(lc))->next_try != 0)
			return true;
	}
	return false;
}

/*
 * Apply a DELETE to the row, which had this revision when it was found.  The
 * outcome is OUTDATED if the row is later than the lines.
 */
static CqrsOutcome
delete_row(Deletion *deletion, char *instance_pk, int64 revision)
{
	CqrsIncoming message = {
		.signal = CQRS_SIGNAL_DELETE,.not_after = deletion->lines.time
	};
	CqrsApplied applied;
	StringInfoData data;
	bool		bare;

	message.cqrs_id = deletion->lines.cqrs_id;
	message.instance_pk = instance_pk;
	initStringInfo(&data);
	appendStringInfo(&data, "{\"id\":%s,\"cqrs_revision\":" INT64_FORMAT ",\"cqrs_updated\":\"",
					 instance_pk, revision + 1);
	cqrs_value_append_timestamptz(&data, deletion->lines.time);
	appendStringInfoString(&data, "\"}");
	message.instance_data = data.data;
	(void) cqrs_json_scan_object(data.data, data.len, &message.data, NULL,
								 NULL, &bare);
	cqrs_apply_message(deletion->behalf.applier,
					   cqrs_on_behalf_find(message.cqrs_id), &message, false,
					   &applied);
	/* What counts is the row when it was locked, not when it was found. */
	return applied.outcome;
}
