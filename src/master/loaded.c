/*-------------------------------------------------------------------------
 *
 * loaded.c
 *	  Masters that the session restores from a dump.
 *
 * pg_restore --data-only loads the rows of cqrs.master and of the users'
 * tables into a database that has the triggers already.  The order depends on
 * the names of schemas.  Restored rows are not changes.  So if a session
 * writes a master by COPY or INSERT, it is taken for a restore: until the
 * session ends, that master sends none of its changes, unless the write is rolled
 * back.  Our own functions write to cqrs.master directly, which fires no trigger
 * (master.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "master/loaded.h"

PG_FUNCTION_INFO_V1(cqrs_trigger_loaded);

/* A master, in TopMemoryContext. */
typedef struct Loaded
{
	SubTransactionId subid;		/* that wrote it; 0: it is committed */
	char		cqrs_id[FLEXIBLE_ARRAY_MEMBER];
} Loaded;

static List *loaded = NIL;
static bool registered = false;

static void add(const char *cqrs_id);
static void end_transaction(XactEvent event, void *arg);
static void end_subtransaction(SubXactEvent event, SubTransactionId subid,
							   SubTransactionId parent, void *arg);
static void settle(SubTransactionId first, SubTransactionId parent, bool aborts);

/* AFTER INSERT FOR EACH ROW on cqrs.master */
Datum
cqrs_trigger_loaded(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	char	   *cqrs_id;
	Oid			relid;
	bool		isnull;

	/*
	 * Otherwise a trigger on another table could stop the writer's messages.
	 */
	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BY_INSERT(data->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(data->tg_event) ||
		strcmp(RelationGetRelationName(data->tg_relation), "master") != 0 ||
		RelationGetNamespace(data->tg_relation) != get_namespace_oid("cqrs", true))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function %s can only be called by the trigger of table \"cqrs.master\"",
						format_procedure(fcinfo->flinfo->fn_oid))));

	desc = RelationGetDescr(data->tg_relation);
	cqrs_id = SPI_getvalue(data->tg_trigtuple, desc,
						   SPI_fnumber(desc, "cqrs_id"));
	if (!cqrs_loaded_has(cqrs_id))
		add(cqrs_id);

	/* Other sessions may have cached that the table has no masters. */
	relid = DatumGetObjectId(SPI_getbinval(data->tg_trigtuple, desc,
										   SPI_fnumber(desc, "relation"),
										   &isnull));
	if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		CacheInvalidateRelcacheByRelid(relid);

	ereport(NOTICE,
			(errmsg("changes for master \"%s\" are not published in this session",
					cqrs_id),
			 errdetail("The row of the master in cqrs.master was written by a command, as when a dump is restored."),
			 errhint("Use cqrs_register() to make a table a master.")));
	return PointerGetDatum(NULL);
}

bool
cqrs_loaded_has(const char *cqrs_id)
{
	ListCell   *lc;

	foreach(lc, loaded)
	{
		if (strcmp(((Loaded *) lfirst(lc))->cqrs_id, cqrs_id) == 0)
			return true;
	}
	return false;
}

void
cqrs_loaded_forget(const char *cqrs_id)
{
	ListCell   *lc;

	foreach(lc, loaded)
	{
		Loaded	   *master = lfirst(lc);

		if (strcmp(master->cqrs_id, cqrs_id) != 0)
			continue;
		loaded = foreach_delete_current(loaded, lc);
		pfree(master);
	}
}

/* Note a master of the current subtransaction. */
static void
add(const char *cqrs_id)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	Size		length = strlen(cqrs_id) + 1;
	Loaded	   *master = palloc(offsetof(Loaded, cqrs_id) + length);

	if (!registered)
	{
		RegisterXactCallback(end_transaction, NULL);
		RegisterSubXactCallback(end_subtransaction, NULL);
		registered = true;
	}
	master->subid = GetCurrentSubTransactionId();
	memcpy(master->cqrs_id, cqrs_id, length);
	loaded = lappend(loaded, master);
	MemoryContextSwitchTo(caller);
}

static void
end_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE ||
		event == XACT_EVENT_ABORT)
		settle(TopSubTransactionId, InvalidSubTransactionId,
			   event == XACT_EVENT_ABORT);
}

static void
end_subtransaction(SubXactEvent event, SubTransactionId subid,
				   SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_COMMIT_SUB || event == SUBXACT_EVENT_ABORT_SUB)
		settle(subid, parent, event == SUBXACT_EVENT_ABORT_SUB);
}

/*
 * A subtransaction ends, and those within it have ended: what they wrote is
 * gone, or is the parent's.
 */
static void
settle(SubTransactionId first, SubTransactionId parent, bool aborts)
{
	ListCell   *lc;

	foreach(lc, loaded)
	{
		Loaded	   *master = lfirst(lc);

		if (master->subid < first)
			continue;
		master->subid = parent;
		if (!aborts)
			continue;
		loaded = foreach_delete_current(loaded, lc);
		pfree(master);
	}
}
