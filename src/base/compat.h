/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Differences between the supported PostgreSQL versions (15 to 19).
 *
 * No other file looks at PG_VERSION_NUM.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_COMPAT_H
#define CQRS_COMPAT_H

#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "access/tupdesc.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "commands/tablecmds.h"
#include "common/jsonapi.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_relation.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 150000
#error "cqrs needs PostgreSQL 15 or later"
#endif

/*
 * The entry point's.  pg_get_loaded_modules() shows the name and the version;
 * older versions cannot.
 */
#if PG_VERSION_NUM >= 180000
#define CQRS_MODULE_MAGIC \
	PG_MODULE_MAGIC_EXT(.name = "cqrs", .version = CQRS_VERSION)
#else
#define CQRS_MODULE_MAGIC PG_MODULE_MAGIC
#endif

/*
 * For a function that does not return.  Older versions put it after the
 * prototype.
 */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/* The arguments of a signal handler, for a call of another one. */
#if PG_VERSION_NUM >= 190000
#define CQRS_PASS_SIGNAL_ARGS postgres_signal_arg, pg_siginfo
#else
#define CQRS_PASS_SIGNAL_ARGS postgres_signal_arg
#endif

/* The number of a relation's current file; a rewrite changes it. */
static inline Oid
cqrs_compat_relation_file(Relation rel)
{
#if PG_VERSION_NUM >= 160000
	return rel->rd_locator.relNumber;
#else
	return rel->rd_node.relNode;
#endif
}

/* Whether the current transaction has given an older relation a new file. */
static inline bool
cqrs_compat_relation_rewritten(Relation rel)
{
#if PG_VERSION_NUM >= 160000
	return rel->rd_createSubid == InvalidSubTransactionId &&
		rel->rd_firstRelfilelocatorSubid != InvalidSubTransactionId;
#else
	return rel->rd_createSubid == InvalidSubTransactionId &&
		rel->rd_firstRelfilenodeSubid != InvalidSubTransactionId;
#endif
}

/* ALTER COLUMN ... SET EXPRESSION, which older versions do not have. */
#if PG_VERSION_NUM < 170000
#define AT_SetExpression ((AlterTableType) -2)
#endif

/* A scan of all rows of a table that a snapshot sees. */
static inline TableScanDesc
cqrs_begin_table_scan(Relation rel, Snapshot snapshot)
{
#if PG_VERSION_NUM >= 190000
	return table_beginscan(rel, snapshot, 0, NULL, SO_NONE);
#else
	return table_beginscan(rel, snapshot, 0, NULL);
#endif
}

/* To be called on a tuple descriptor once all its columns are set. */
static inline void
cqrs_finish_tuple_desc(TupleDesc desc)
{
#if PG_VERSION_NUM >= 190000
	TupleDescFinalize(desc);
#endif
}

/* A jsonb value under construction; "result" is set when it is complete. */
#if PG_VERSION_NUM >= 190000
typedef JsonbInState CqrsJsonbState;
#else
typedef struct CqrsJsonbState
{
	JsonbParseState *parse;
	JsonbValue *result;
} CqrsJsonbState;
#endif

static inline void
cqrs_push_jsonb(CqrsJsonbState *state, JsonbIteratorToken token,
				JsonbValue *value)
{
#if PG_VERSION_NUM >= 190000
	pushJsonbValue(state, token, value);
#else
	state->result = pushJsonbValue(&state->parse, token, value);
#endif
}

/* Whether this transaction holds a lock of that mode, or a stronger one. */
static inline bool
cqrs_compat_relation_has_lock(Oid relid, LOCKMODE weakest)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	for (LOCKMODE mode = weakest; mode <= AccessExclusiveLock; mode++)
	{
#if PG_VERSION_NUM >= 170000
		if (LockHeldByMe(&tag, mode, false))
			return true;
#else
		if (LockHeldByMe(&tag, mode))
			return true;
#endif
	}
	return false;
}

/* Whether this transaction keeps others from changing a table's schema. */
static inline bool
cqrs_compat_relation_locked(Oid relid)
{
	return cqrs_compat_relation_has_lock(relid, ShareUpdateExclusiveLock);
}

/* Privileges: f(object, role). */
#if PG_VERSION_NUM >= 160000
#define cqrs_owns_relation(relid, roleid) \
	object_ownercheck(RelationRelationId, relid, roleid)
#define cqrs_owns_database(dboid, roleid) \
	object_ownercheck(DatabaseRelationId, dboid, roleid)
#define cqrs_execute_aclcheck(funcid, roleid) \
	object_aclcheck(ProcedureRelationId, funcid, roleid, ACL_EXECUTE)
#define cqrs_usage_aclcheck(schema, roleid) \
	object_aclcheck(NamespaceRelationId, schema, roleid, ACL_USAGE)
#else
#define cqrs_owns_relation(relid, roleid) pg_class_ownercheck(relid, roleid)
#define cqrs_owns_database(dboid, roleid) pg_database_ownercheck(dboid, roleid)
#define cqrs_execute_aclcheck(funcid, roleid) \
	pg_proc_aclcheck(funcid, roleid, ACL_EXECUTE)
#define cqrs_usage_aclcheck(schema, roleid) \
	pg_namespace_aclcheck(schema, roleid, ACL_USAGE)
#endif

/* Memory that the GUC machinery may free; NULL when there is none left. */
static inline char *
cqrs_guc_strdup(const char *value)
{
#if PG_VERSION_NUM >= 160000
	return guc_strdup(LOG, value);
#else
	return strdup(value);
#endif
}

static inline void
cqrs_guc_free(void *ptr)
{
#if PG_VERSION_NUM >= 160000
	guc_free(ptr);
#else
	free(ptr);
#endif
}

/* The parts of a possibly qualified name; an error when it is malformed. */
static inline List *
cqrs_qualified_name_list(const char *name)
{
#if PG_VERSION_NUM >= 160000
	return stringToQualifiedNameList(name, NULL);
#else
	return stringToQualifiedNameList(name);
#endif
}

static inline PlannedStmt *
cqrs_plan_query(Query *query, const char *text, int options,
				ParamListInfo params)
{
#if PG_VERSION_NUM >= 190000
	return pg_plan_query(query, text, options, params, NULL);
#else
	return pg_plan_query(query, text, options, params);
#endif
}

/* Run a query that has been started for up to "count" more rows. */
static inline void
cqrs_executor_run(QueryDesc *query, uint64 count)
{
#if PG_VERSION_NUM >= 180000
	ExecutorRun(query, ForwardScanDirection, count);
#else
	ExecutorRun(query, ForwardScanDirection, count, false);
#endif
}

/* TRUNCATE a table on which the caller holds ACCESS EXCLUSIVE. */
static inline void
cqrs_truncate(Relation rel)
{
	List	   *rels = list_make1(rel);
	List	   *relids = list_make1_oid(RelationGetRelid(rel));

#if PG_VERSION_NUM >= 160000
	ExecuteTruncateGuts(rels, relids, NIL, DROP_RESTRICT, false, false);
#else
	ExecuteTruncateGuts(rels, relids, NIL, DROP_RESTRICT, false);
#endif
}

/*
 * Wait events of our processes, as pg_stat_activity shows them.  Before
 * version 17 extensions share one event.
 */
typedef enum CqrsWaitEvent
{
	CQRS_WAIT_LAUNCHER,
	CQRS_WAIT_PUBLISHER,
	CQRS_WAIT_CONNECT,
	CQRS_WAIT_LOOKUP,
	CQRS_WAIT_FINISH,
	CQRS_WAIT_PUBLISHED,
	CQRS_WAIT_VACATE,
	CQRS_WAIT_CONSUMER,
	CQRS_WAIT_APPLIED,
	CQRS_NWAITS
} CqrsWaitEvent;

static inline uint32
cqrs_wait_event(CqrsWaitEvent event)
{
#if PG_VERSION_NUM >= 170000
	static const char *const names[CQRS_NWAITS] = {
		"CqrsLauncherMain", "CqrsPublisherMain", "CqrsConnect", "CqrsLookup",
		"CqrsPublisherFinish", "CqrsWaitPublished", "CqrsPublisherLeave",
		"CqrsConsumerMain", "CqrsWaitApplied"
	};
	static uint32 events[CQRS_NWAITS];

	if (events[event] == 0)
		events[event] = WaitEventExtensionNew(names[event]);
	return events[event];
#else
	return PG_WAIT_EXTENSION;
#endif
}

/* A lexer of JSON in the database's encoding that copies no strings. */
static inline JsonLexContext *
cqrs_make_json_lex(const char *text, int length)
{
	char	   *json = unconstify(char *, text);

#if PG_VERSION_NUM >= 170000
	return makeJsonLexContextCstringLen(NULL, json, length,
										GetDatabaseEncoding(), false);
#else
	return makeJsonLexContextCstringLen(json, length, GetDatabaseEncoding(),
										false);
#endif
}

/* An index scan without a snapshot yet: scan->xs_snapshot has to be set. */
static inline IndexScanDesc
cqrs_begin_index_scan(Relation rel, Relation index, int nkeys)
{
#if PG_VERSION_NUM >= 190000
	return index_beginscan(rel, index, GetActiveSnapshot(), NULL, nkeys, 0,
						   SO_NONE);
#elif PG_VERSION_NUM >= 180000
	return index_beginscan(rel, index, GetActiveSnapshot(), NULL, nkeys, 0);
#else
	return index_beginscan(rel, index, GetActiveSnapshot(), nkeys, 0);
#endif
}

/*
 * Make a table the only one of an executor state, with the columns, as offsets
 * from FirstLowInvalidHeapAttributeNumber, that updates set.
 */
static inline void
cqrs_init_range_table(EState *estate, Relation rel, Bitmapset *updated)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);
#if PG_VERSION_NUM >= 160000
	List	   *permissions = NIL;
#endif

	rte->rtekind = RTE_RELATION;
	rte->relid = RelationGetRelid(rel);
	rte->relkind = rel->rd_rel->relkind;
	rte->rellockmode = RowExclusiveLock;
#if PG_VERSION_NUM >= 160000
	addRTEPermissionInfo(&permissions, rte)->updatedCols = updated;
#else
	rte->updatedCols = updated;
#endif
#if PG_VERSION_NUM >= 180000
	ExecInitRangeTable(estate, list_make1(rte), permissions,
					   bms_make_singleton(1));
#elif PG_VERSION_NUM >= 160000
	ExecInitRangeTable(estate, list_make1(rte), permissions);
#else
	ExecInitRangeTable(estate, list_make1(rte));
#endif
}

static inline void
cqrs_init_eval_plan_qual(EPQState *epq, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	EvalPlanQualInit(epq, estate, NULL, NIL, -1, NIL);
#else
	EvalPlanQualInit(epq, estate, NULL, NIL, -1);
#endif
}

/*
 * Close the tables that firing triggers has opened.  Some versions have a
 * function for it, of varying name.
 */
static inline void
cqrs_close_trigger_targets(EState *estate)
{
	ListCell   *lc;

	foreach(lc, estate->es_trig_target_relations)
		table_close(((ResultRelInfo *) lfirst(lc))->ri_RelationDesc, NoLock);
}

/* From the columns of a partitioned table to a partition's; NULL: the same. */
static inline TupleConversionMap *
cqrs_root_to_leaf_map(ResultRelInfo *leaf, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	return ExecGetRootToChildMap(leaf, estate);
#else
	return leaf->ri_RootToPartitionMap;
#endif
}

#endif							/* CQRS_COMPAT_H */
