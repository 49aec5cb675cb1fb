/*-------------------------------------------------------------------------
 *
 * watch.c
 *	  What a worker looks for in the catalog besides its own work: whether there
 *	  is work for workers of other kinds, and other settings of the database.
 *
 * A command that brings work or settings wakes the workers itself (wake.h),
 * unless the command was in a prepared transaction.  COMMIT PREPARED counts a
 * call to the publishers, and nobody knows what it has committed.  So the
 * first publisher looks after each call.  If COMMIT PREPARED in one database
 * commits settings of another database, the workers of the other database do
 * not notice.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/objects.h"
#include "worker/roster.h"
#include "worker/wake.h"
#include "worker/watch.h"

/* The calls (roster.h) of the last look. */
static uint32 seen;

/*
 * The settings of cqrs that the database has, as this process has read them.
 */
static char *settings;

static void want_others(const CqrsWorker *worker);
static char *read_settings(void);
static void append_settings(StringInfo buf, Datum array);

void
cqrs_watch_begin(const CqrsWorker *worker, uint32 calls)
{
	seen = calls;
	settings = MemoryContextStrdup(TopMemoryContext, read_settings());
	want_others(worker);
}

void
cqrs_watch_turn(const CqrsWorker *worker)
{
	MemoryContext turn = CurrentMemoryContext;
	uint32		calls =
	pg_atomic_read_u32(&cqrs_rosters[worker->slot].kinds[worker->kind].calls);
	const CqrsObjects *objects;
	bool		changed = false;

	if (worker->kind != CQRS_WORKER_PUBLISHER || worker->number != 0 ||
		calls == seen)
		return;
	seen = calls;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	objects = cqrs_objects_get(true);
	/* If not, the extension was dropped, and the worker leaves. */
	if (objects != NULL && objects->extension == worker->extension)
	{
		want_others(worker);
		changed = strcmp(settings, read_settings()) != 0;
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(turn);
	if (changed)
		cqrs_wake_resettle(MyDatabaseId);
}

/*
 * Commands that give a kind work from now on ask for its workers themselves,
 * so nothing is lost if the snapshot does not see their changes.
 */
static void
want_others(const CqrsWorker *worker)
{
	for (int kind = 0; kind < CQRS_NWORKERKINDS; kind++)
	{
		const CqrsWorkerClass *class = cqrs_kind_class(kind);

		if (class != NULL && kind != worker->kind &&
			(class->is_wanted == NULL || class->is_wanted()))
			cqrs_roster_want(worker->slot, kind);
	}
}

/*
 * The extension's settings of this database, ALTER DATABASE ... SET, as a text
 * to be compared.
 */
static char *
read_settings(void)
{
	Relation	rel = table_open(DbRoleSettingRelationId, AccessShareLock);
	StringInfoData text;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	initStringInfo(&text);
	ScanKeyInit(&keys[0], Anum_pg_db_role_setting_setdatabase,
				BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(MyDatabaseId));
	ScanKeyInit(&keys[1], Anum_pg_db_role_setting_setrole,
				BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(InvalidOid));
	scan = systable_beginscan(rel, DbRoleSettingDatidRolidIndexId, true, NULL,
							  lengthof(keys), keys);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		array = heap_getattr(tuple,
										 Anum_pg_db_role_setting_setconfig,
										 RelationGetDescr(rel), &isnull);

		if (!isnull)
			append_settings(&text, array);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return text.data;
}

/* Those of an array of pg_db_role_setting that are ours, a line for each. */
static void
append_settings(StringInfo buf, Datum array)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		char	   *setting = nulls[i] ? "" : TextDatumGetCString(elements[i]);

		if (pg_strncasecmp(setting, "cqrs.", 5) == 0)
			appendStringInfo(buf, "%s\n", setting);
	}
}
