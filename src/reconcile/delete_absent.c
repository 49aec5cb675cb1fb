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
#include "apply/on_behalf.h"
#include "compose/value.h"
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
static void delete_line(Deletion *deletion, char *text, int number);
static bool delete_row(Deletion *deletion, const CqrsJsonValue *key);

/* cqrs_deleted_sync_replica(lines text[]) RETURNS bigint */
Datum
cqrs_deleted_sync_replica(PG_FUNCTION_ARGS)
{
	Deletion	deletion = {0};
	const CqrsReplica *replica;
	MemoryContext caller;

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
	for (int i = 0; i < list_length(deletion.lines.lines); i++)
	{
		delete_line(&deletion, list_nth(deletion.lines.lines, i), i + 1);
		MemoryContextReset(deletion.context);
	}
	MemoryContextSwitchTo(caller);
	cqrs_finder_end(deletion.finder);
	cqrs_on_behalf_check_constraints();
	cqrs_on_behalf_end(&deletion.behalf);
	SPI_finish();
	PG_RETURN_INT64(deletion.deleted);
}

static void
check_owner(const CqrsReplica *replica)
{
	if (!has_privs_of_role(GetUserId(), replica->owner))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE,
					   OidIsValid(replica->relid) ?
					   get_rel_name(replica->relid) : replica->cqrs_id);
}

static void
delete_line(Deletion *deletion, char *text, int number)
{
	CqrsJsonMembers elements = {0};

	cqrs_lines_elements(text, number, &elements);
	for (int i = 0; i < elements.nmembers; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (delete_row(deletion, &elements.members[i].value))
			deletion->deleted++;
	}
}

static bool
delete_row(Deletion *deletion, const CqrsJsonValue *key)
{
	Datum		values[INDEX_MAX_KEYS];
	CqrsFoundRow row;
	CqrsIncoming message = {
		.signal = CQRS_DELETE,.not_after = deletion->lines.time
	};
	CqrsApplied applied;
	StringInfoData data;
	bool		bare;

	cqrs_finder_read_key(deletion->finder, key, values);
	PushActiveSnapshot(GetLatestSnapshot());
	row = cqrs_finder_find(deletion->finder, values);
	PopActiveSnapshot();
	if (!row.alive)
		return false;

	message.cqrs_id = deletion->lines.cqrs_id;
	message.instance_pk = cqrs_lines_key(key);
	initStringInfo(&data);
	appendStringInfo(&data, "{\"id\":%s,\"cqrs_revision\":" INT64_FORMAT ",\"cqrs_updated\":\"",
					 message.instance_pk, row.revision + 1);
	cqrs_value_append_timestamptz(&data, deletion->lines.time);
	appendStringInfoString(&data, "\"}");
	message.instance_data = data.data;
	(void) cqrs_json_scan_object(data.data, data.len, &message.data, NULL,
								 NULL, &bare);
	cqrs_apply_message(deletion->behalf.applier,
					   cqrs_on_behalf_find(message.cqrs_id), &message, false,
					   &applied);
	/* What counts is the row when it was locked, not when it was found. */
	return applied.outcome == CQRS_OUTCOME_DELETED;
}
