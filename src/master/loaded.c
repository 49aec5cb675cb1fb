/*-------------------------------------------------------------------------
 *
 * loaded.c
 *	  Masters that the session restores from a dump.
 *
 * pg_restore --data-only loads the rows of cqrs.master and of the users'
 * tables into a database that has the triggers already.  The order depends on
 * the names of schemas.  Restored rows are not changes.  So if a session
 * writes a master by COPY or INSERT, it is taken for a restore: until the
 * session ends, that master sends none of its changes.  Our own functions
 * write to cqrs.master directly, which fires no trigger (master.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

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

/* cqrs_ids, char *, in TopMemoryContext */
static List *loaded = NIL;

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
	{
		MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);

		loaded = lappend(loaded, pstrdup(cqrs_id));
		MemoryContextSwitchTo(caller);
	}

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
		if (strcmp(lfirst(lc), cqrs_id) == 0)
			return true;
	}
	return false;
}
