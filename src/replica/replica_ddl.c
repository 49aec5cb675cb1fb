/*-------------------------------------------------------------------------
 *
 * replica_ddl.c
 *	  The judge of commands that change the schema below replicas.
 *
 * A command is refused if a replica cannot work after it: its table is no
 * longer one that can follow (fit.c), its options do not fit the columns
 * (mapping.c), or a function is gone.  A replica that could not work before is
 * let alone: pg_restore brings keys and functions after tables.  Renamed
 * columns are followed first, so that messages still find them.  The primary
 * key must stay the same, too.
 *
 * Other types of columns are accepted: values of messages are converted to
 * whatever type a column has.
 *
 * Definitions of replicas are read after the command, because the command may
 * have waited for a transaction that has changed or ended the replica.  Whether
 * the replica could work before is judged by the definition and the facts
 * before the command, which fit each other.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/partition.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "base/caught.h"
#include "base/compat.h"
#include "base/objects.h"
#include "base/strings.h"
#include "ddl/ddl.h"
#include "ddl/facts.h"
#include "define/columns.h"
#include "define/function.h"
#include "replica/fit.h"
#include "replica/handler.h"
#include "replica/mapping.h"
#include "replica/registration.h"
#include "replica/replica.h"
#include "replica/replica_ddl.h"

/* A function that a replica names. */
typedef struct Named
{
	char	   *cqrs_id;
	CqrsReplicaOption option;
	List	   *functions;		/* OIDs that its name stands for */
} Named;

/* Replicas before the command. */
typedef struct Reliance
{
	List	   *functions;		/* of Named */
	List	   *replicas;		/* OIDs of tables that are replicas */
	List	   *broken;			/* those of them that cannot work */
	List	   *foreign;		/* of CqrsForeignFunction */
} Reliance;

/* A check that raises an error. */
typedef void (*Check) (const CqrsTableFacts *facts, const CqrsReplicaRow *row);

PG_FUNCTION_INFO_V1(cqrs_sql_check_replica_partition);

static List *relids(void);
static void *judge_before(const CqrsDdlCommand *command);
static void judge_after(const CqrsDdlCommand *command, void *state);
static List *list_functions(void);
static void foresee(const CqrsDdlCommand *command);
static void check_table(const CqrsDdlCommand *command, void *state,
						const CqrsTableFacts *before);
static void check_partition(const CqrsTableFacts *before,
							const CqrsTableFacts *after);
static void follow_renames(const CqrsTableFacts *before,
						   const CqrsTableFacts *after, CqrsReplicaRow *row);
static void fits(const CqrsTableFacts *facts, const CqrsReplicaRow *row);
static void fits_as_partition(const CqrsTableFacts *facts,
							  const CqrsReplicaRow *row);
static ErrorData *problem(Check check, const CqrsTableFacts *facts,
						  const CqrsReplicaRow *row);
static void check_function(const Named *named);
static CqrsReplicaRow *replica_of(Oid relid);
pg_noreturn static void refuse(const CqrsTableFacts *facts,
							   const CqrsReplicaRow *row,
							   const char *reason);

static const CqrsDdlJudge judge = {relids, judge_before, judge_after, NULL};

void
cqrs_replica_ddl_init(void)
{
	cqrs_ddl_register(&judge);
}

/* This one and the next two are those of CqrsDdlJudge (ddl.h). */
static List *
relids(void)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, cqrs_replica_read_all())
	{
		Oid			relid = ((CqrsReplicaRow *) lfirst(lc))->relid;

		if (OidIsValid(relid))
			result = lappend_oid(result, relid);
	}
	return result;
}

static void *
judge_before(const CqrsDdlCommand *command)
{
	Reliance   *reliance;
	ListCell   *lc;

	if (command->scope == CQRS_SCOPE_NONE && !OidIsValid(command->renamed) &&
		!command->changes_owners)
		return NULL;
	reliance = palloc0(sizeof(Reliance));
	if (command->scope == CQRS_SCOPE_FUNCTIONS ||
		command->scope == CQRS_SCOPE_ALL)
		reliance->functions = list_functions();
	if (command->changes_owners)
		reliance->foreign = cqrs_registration_foreign(cqrs_replica_read_all());
	foreach(lc, command->tables)
	{
		const CqrsTableFacts *facts = lfirst(lc);
		const CqrsReplicaRow *row = replica_of(facts->relid);

		if (row == NULL)
			continue;
		reliance->replicas = lappend_oid(reliance->replicas, facts->relid);
		if (problem(fits, facts, row) != NULL)
			reliance->broken = lappend_oid(reliance->broken, facts->relid);
	}
	if (IsA(command->statement, AlterTableStmt))
		foresee(command);
	return reliance;
}

static void
judge_after(const CqrsDdlCommand *command, void *state)
{
	const Reliance *reliance = state;
	ListCell   *lc;

	cqrs_ddl_each_table(command, state, check_table);
	foreach(lc, reliance->functions)
		check_function(lfirst(lc));
	if (command->changes_owners)
		cqrs_function_warn_foreign(cqrs_registration_foreign(cqrs_replica_read_all()),
								   reliance->foreign);
	if (OidIsValid(command->renamed))
	{
		const CqrsReplicaRow *row = replica_of(command->renamed);

		if (row != NULL)
			ereport(NOTICE,
					(errmsg("replica \"%s\" stays with its table, which is named \"%s\" now",
							row->cqrs_id, get_rel_name(command->renamed)),
					 errhint("To have another table take its place, use cqrs_unregister_replica() and cqrs_register_replica().")));
	}
}

/* The functions that replicas name, as Named: before the command. */
static List *
list_functions(void)
{
	static const CqrsReplicaOption options[] = {
		CQRS_REPLICA_HANDLER, CQRS_REPLICA_RETRY
	};
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, cqrs_replica_read_all())
	{
		const CqrsReplicaRow *row = lfirst(lc);

		for (int i = 0; i < lengthof(options); i++)
		{
			const char *name = cqrs_replica_text(row, options[i]);
			Named	   *named;

			if (name == NULL)
				continue;
			named = palloc(sizeof(Named));
			named->cqrs_id = row->cqrs_id;
			named->option = options[i];
			named->functions = cqrs_function_candidates(name, true);
			result = lappend(result, named);
		}
	}
	return result;
}

/*
 * SET UNLOGGED rewrites the table, which may take hours: judge it before, if
 * the user may run it.
 */
static void
foresee(const CqrsDdlCommand *command)
{
	ListCell   *lc;
	bool		unlogged = false;

	foreach(lc, castNode(AlterTableStmt, command->statement)->cmds)
	{
		if (lfirst_node(AlterTableCmd, lc)->subtype == AT_SetUnLogged)
			unlogged = true;
	}
	if (!unlogged)
		return;
	foreach(lc, command->tables)
	{
		const CqrsTableFacts *facts = lfirst(lc);
		CqrsTableFacts predicted = *facts;

		predicted.persistence = RELPERSISTENCE_UNLOGGED;
		if (facts->relid == command->altered &&
			cqrs_owns_relation(facts->relid, GetUserId()))
			check_partition(facts, &predicted);
	}
}

/*
 * For cqrs_ddl_each_table(): refuse the command if it breaks a replica, or
 * changes its key; give a replica the new names of columns.
 */
static void
check_table(const CqrsDdlCommand *command, void *state,
			const CqrsTableFacts *before)
{
	const Reliance *reliance = state;
	CqrsTableFacts *after = cqrs_facts_table(before->relid);
	CqrsReplicaRow *row;
	ErrorData  *error;

	if (after == NULL)
		return;
	row = replica_of(before->relid);
	if (row == NULL)
	{
		check_partition(before, after);
		return;
	}
	follow_renames(before, after, row);
	if (list_member_oid(reliance->broken, before->relid))
		return;
	error = problem(fits, after, row);
	if (error != NULL)
		refuse(after, row, error->message);
	if (list_member_oid(reliance->replicas, before->relid) &&
		!equal(before->key, after->key))
		refuse(after, row, psprintf("table \"%s\" has another primary key",
									after->name));
}

/* The table is a replica's, or a partition of one, or neither. */
static void
check_partition(const CqrsTableFacts *before, const CqrsTableFacts *after)
{
	CqrsReplicaRow *row = replica_of(after->relid);
	ErrorData  *error;
	ListCell   *lc;

	if (row == NULL && get_rel_relispartition(after->relid))
	{
		foreach(lc, get_partition_ancestors(after->relid))
		{
			row = replica_of(lfirst_oid(lc));
			if (row != NULL)
				break;
		}
	}
	if (row == NULL)
		return;
	error = problem(fits_as_partition, after, row);
	if (error != NULL &&
		(!before->is_partition ||
		 problem(fits_as_partition, before, row) == NULL))
		refuse(after, row, error->message);
}

/*
 * cqrs.check_replica_partition(relation regclass) RETURNS void: for a new
 * partition, which no command before could name.  One that is attached has been
 * judged.
 */
Datum
cqrs_sql_check_replica_partition(PG_FUNCTION_ARGS)
{
	const CqrsTableFacts *facts = cqrs_facts_table(PG_GETARG_OID(0));
	CqrsTableFacts nothing = {0};

	if (facts != NULL && facts->is_partition)
		check_partition(&nothing, facts);
	PG_RETURN_VOID();
}

/* Give a replica the new names of columns, which keep their keys. */
static void
follow_renames(const CqrsTableFacts *before, const CqrsTableFacts *after,
			   CqrsReplicaRow *row)
{
	List	   *fields = cqrs_replica_names(row, CQRS_REPLICA_FIELDS);
	bool		changed = false;

	for (int i = 0; i < before->ncolumns; i++)
	{
		const char *from = before->columns[i].name;
		const char *to = after->columns[i].name;
		char	   *soft_delete = cqrs_replica_text(row,
													CQRS_REPLICA_SOFT_DELETE);
		bool		sets;

		if (from == NULL || to == NULL || strcmp(from, to) == 0 ||
			cqrs_columns_is_own(from))
			continue;
		sets = soft_delete != NULL && strcmp(soft_delete, from) == 0;
		if (sets)
			row->options[CQRS_REPLICA_SOFT_DELETE].value =
				CStringGetTextDatum(to);
		cqrs_columns_rename_in_map(&row->options[CQRS_REPLICA_FIELD_MAP], from,
								   to, !sets && (fields == NIL ||
												 cqrs_strings_have(fields, from)));
		cqrs_columns_rename_in_list(&row->options[CQRS_REPLICA_FIELDS], from,
									to);
		changed = true;
	}
	if (changed)
		cqrs_replica_update(row);
}

/* The table as a replica's: a Check. */
static void
fits(const CqrsTableFacts *facts, const CqrsReplicaRow *row)
{
	CqrsMapping mapping;

	cqrs_fit_check(facts);
	cqrs_mapping_bind_facts(facts, row, &mapping);
}

/* A partition of one: a Check. */
static void
fits_as_partition(const CqrsTableFacts *facts, const CqrsReplicaRow *row)
{
	cqrs_fit_check_partition(facts);
}

/*
 * The error of a check, or NULL.  The checks only read system catalogs, so
 * nothing has to be undone.
 */
static ErrorData *
problem(Check check, const CqrsTableFacts *facts, const CqrsReplicaRow *row)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		check(facts, row);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = cqrs_caught_copy();
		FlushErrorState();
	}
	PG_END_TRY();
	/* The check may have been cancelled, or out of memory. */
	if (error != NULL &&
		(ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION ||
		 ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES))
		ReThrowError(error);
	return error;
}

/* If a function is gone, check that the replica still has one. */
static void
check_function(const Named *named)
{
	const CqrsReplicaRow *row = cqrs_replica_read(named->cqrs_id);
	const char *name = row == NULL ? NULL :
	cqrs_replica_text(row, named->option);
	const CqrsFunctionKind *kind = named->option == CQRS_REPLICA_HANDLER ?
	cqrs_handler_kind() : cqrs_handler_retry_kind();

	if (name == NULL ||
		list_difference_oid(named->functions,
							cqrs_function_candidates(name, true)) == NIL ||
		OidIsValid(cqrs_function_owner(name, kind)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot change or drop the function for \"%s\" of replica \"%s\"",
					kind->role, row->cqrs_id),
			 errdetail("No function \"%s\" would have the right arguments and result any more.",
					   name),
			 errhint("Use cqrs_alter_replica() to give the replica another function or none.")));
}

/* The replica of a table, or NULL. */
static CqrsReplicaRow *
replica_of(Oid relid)
{
	char	   *cqrs_id = cqrs_objects_replica_of(relid);

	return cqrs_id == NULL ? NULL : cqrs_replica_read(cqrs_id);
}

static void
refuse(const CqrsTableFacts *facts, const CqrsReplicaRow *row,
	   const char *reason)
{
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot change table \"%s\" in this way", facts->name),
			 errdetail("Replica \"%s\" would not work any more: %s.",
					   row->cqrs_id, reason),
			 errhint("Use cqrs_alter_replica() to change the replica first, or cqrs_unregister_replica() to end it.")));
}
