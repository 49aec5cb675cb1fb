/*-------------------------------------------------------------------------
 *
 * mapping.c
 *	  The columns of a replica's table, and their keys in messages.
 *
 * The options name columns by their names.  Here the names become column
 * numbers and keys.  If an option does not fit the table, an error is raised:
 * to the user who sets the option or changes the table, or to the consumer if
 * the table was changed without the extension's knowledge.
 *
 * Works on facts alone, so that a command can be judged by the facts before it
 * and after it (replica_ddl.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "base/strings.h"
#include "ddl/facts.h"
#include "define/columns.h"
#include "replica/mapping.h"

/* What is bound to what. */
typedef struct Binding
{
	const CqrsTableFacts *facts;
	const CqrsReplicaRow *row;
	List	   *fields;			/* NIL: all */
	const char *soft_delete;	/* or NULL */
	CqrsMapping *mapping;
} Binding;

static int	find_column(const CqrsTableFacts *facts, const char *name);
static void check_names(const Binding *binding, const char *option,
						List *names);
static void check_own(const Binding *binding, const char *name, Oid type);
static void check_soft_delete(const Binding *binding);
static void add_columns(const Binding *binding);
static void add_key(const Binding *binding);
static void check_keys(const Binding *binding);
static int	mapped(const CqrsMapping *mapping, AttrNumber attnum);

void
cqrs_mapping_bind(Relation rel, const CqrsReplicaRow *row,
				  CqrsMapping *mapping)
{
	cqrs_mapping_bind_facts(cqrs_facts_table(RelationGetRelid(rel)), row,
							mapping);
}

void
cqrs_mapping_bind_facts(const CqrsTableFacts *facts, const CqrsReplicaRow *row,
						CqrsMapping *mapping)
{
	Binding		binding = {
		.facts = facts,.row = row,.mapping = mapping,
		.fields = cqrs_replica_names(row, CQRS_REPLICA_FIELDS),
		.soft_delete = cqrs_replica_text(row, CQRS_REPLICA_SOFT_DELETE)
	};

	memset(mapping, 0, sizeof(CqrsMapping));
	/* Here and not in fit.c: no command shows that a table becomes one. */
	if (facts->is_hypertable)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table \"%s\" is a hypertable of TimescaleDB",
						facts->name),
				 errdetail("The rows of a hypertable are in chunks, which only TimescaleDB's own executor finds and makes, and messages are applied without it."),
				 errhint("Use a partitioned table, or a table without partitions.")));
	if (facts->key == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no primary key", facts->name),
				 errdetail("Messages identify a row by its primary key."),
				 errhint("Use ALTER TABLE ... ADD PRIMARY KEY.")));
	if (facts->key_method != BTREE_AM_OID)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the primary key of table \"%s\" is not a B-tree index",
						facts->name),
				 errdetail("Messages are applied one after the other, and ranges of a key WITHOUT OVERLAPS may overlap in between."),
				 errhint("Use a primary key of the same columns without WITHOUT OVERLAPS.")));
	check_own(&binding, "cqrs_revision", INT4OID);
	check_own(&binding, "cqrs_updated", TIMESTAMPTZOID);
	check_names(&binding, "fields", binding.fields);
	check_names(&binding, "field_map",
				cqrs_columns_mapped(&row->options[CQRS_REPLICA_FIELD_MAP]));
	check_soft_delete(&binding);
	add_columns(&binding);
	add_key(&binding);
	check_keys(&binding);
	mapping->revision =
		mapped(mapping, find_column(facts, "cqrs_revision") + 1);
	mapping->updated = mapped(mapping, find_column(facts, "cqrs_updated") + 1);
}

/* The index of a column in facts->columns, or -1. */
static int
find_column(const CqrsTableFacts *facts, const char *name)
{
	for (int i = 0; i < facts->ncolumns; i++)
	{
		if (facts->columns[i].name != NULL &&
			strcmp(facts->columns[i].name, name) == 0)
			return i;
	}
	return -1;
}

/* Names must be those of columns that can be written, each at most once. */
static void
check_names(const Binding *binding, const char *option, List *names)
{
	const CqrsTableFacts *facts = binding->facts;
	ListCell   *lc;

	foreach(lc, names)
	{
		const char *name = lfirst(lc);
		int			column = find_column(facts, name);

		if (column < 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of table \"%s\" does not exist",
							name, facts->name),
					 errdetail("The option \"%s\" of a replica names the column.",
							   option),
					 errhint("Name columns of the table; existing replicas are changed by cqrs_alter_replica().")));
		if (facts->columns[column].is_generated)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("column \"%s\" of table \"%s\" is a generated column",
							name, facts->name),
					 errdetail("The option \"%s\" of a replica names the column, whose values cannot be set.",
							   option),
					 errhint("Leave the column out of the option.")));
	}
	cqrs_columns_check_distinct(names, option);
}

/* Check one of cqrs_revision and cqrs_updated. */
static void
check_own(const Binding *binding, const char *name, Oid type)
{
	const CqrsTableFacts *facts = binding->facts;
	int			i = find_column(facts, name);
	const CqrsColumnFacts *column;

	if (i < 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table \"%s\" has no column \"%s\"", facts->name, name),
				 errdetail("The column has the state of the row at its master."),
				 errhint("Add the column again, or end the replica with cqrs_unregister_replica().")));
	column = &facts->columns[i];
	if (column->type != type || !column->not_null)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of table \"%s\" is not of type %s NOT NULL",
						name, facts->name, format_type_be(type)),
				 errdetail("The column has the state of the row at its master."),
				 errhint("Change the column, or drop it to have cqrs_register_replica() add it.")));
	if (column->is_generated || column->is_identity)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_DEFINITION),
				 column->is_generated ?
				 errmsg("column \"%s\" of table \"%s\" is a generated column",
						name, facts->name) :
				 errmsg("column \"%s\" of table \"%s\" is an identity column",
						name, facts->name),
				 errdetail("Messages write the column."),
				 errhint("Change the column, or drop it to have cqrs_register_replica() add it.")));
}

/* The column must be one that a DELETE can set and a SAVE can clear. */
static void
check_soft_delete(const Binding *binding)
{
	const CqrsTableFacts *facts = binding->facts;
	const char *name = binding->soft_delete;
	const CqrsColumnFacts *column;
	int			i;

	if (name == NULL)
		return;
	check_names(binding, "soft_delete", list_make1(unconstify(char *, name)));
	i = find_column(facts, name);
	column = &facts->columns[i];
	if (cqrs_columns_is_own(name) || list_member_int(facts->key, i + 1) ||
		cqrs_strings_have(binding->fields, name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column \"%s\", which messages write, cannot be \"soft_delete\"",
						name),
				 errdetail("The column would take its values from messages and from DELETEs."),
				 errhint("Name a column that is not in \"fields\", not in the primary key, and not one of the extension.")));
	if (column->type != BOOLOID && column->type != TIMESTAMPTZOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of type %s cannot be \"soft_delete\"",
						name, format_type_be(column->type)),
				 errdetail("A DELETE sets the column to true, or to the current time."),
				 errhint("Name a column of type boolean or timestamp with time zone.")));
	if (column->type == TIMESTAMPTZOID && column->not_null)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\", which is NOT NULL, cannot be \"soft_delete\"",
						name),
				 errdetail("The column is null in rows that are not deleted."),
				 errhint("Use ALTER TABLE ... ALTER COLUMN %s DROP NOT NULL.",
						 quote_identifier(name))));
	binding->mapping->soft_delete = i + 1;
}

/* Map the columns that messages write, in the order of the table. */
static void
add_columns(const Binding *binding)
{
	const CqrsTableFacts *facts = binding->facts;
	CqrsMapping *mapping = binding->mapping;

	mapping->columns = palloc0(sizeof(CqrsMappedColumn) * facts->ncolumns);
	for (int i = 0; i < facts->ncolumns; i++)
	{
		const CqrsColumnFacts *column = &facts->columns[i];
		CqrsMappedColumn *result = &mapping->columns[mapping->ncolumns];
		bool		own;

		if (column->name == NULL || column->is_generated ||
			i + 1 == mapping->soft_delete)
			continue;
		own = cqrs_columns_is_own(column->name);
		if (binding->fields != NIL && !own &&
			!cqrs_strings_have(binding->fields, column->name))
			continue;
		result->attnum = i + 1;
		result->column = pstrdup(column->name);
		result->key = pstrdup(cqrs_columns_key(&binding->row->options[CQRS_REPLICA_FIELD_MAP],
											   column->name));
		result->required = binding->fields != NIL || own ||
			list_member_int(facts->key, i + 1);
		result->type = column->type;
		result->typmod = column->typmod;
		mapping->ncolumns++;
	}
}

/*
 * Set the key, whose columns are mapped.  Raises an error if one is not, or is
 * generated.
 */
static void
add_key(const Binding *binding)
{
	const CqrsTableFacts *facts = binding->facts;
	CqrsMapping *mapping = binding->mapping;
	ListCell   *lc;

	mapping->key_index = facts->key_index;
	mapping->keys = palloc(sizeof(int) * list_length(facts->key));
	foreach(lc, facts->key)
	{
		const CqrsColumnFacts *column = &facts->columns[lfirst_int(lc) - 1];
		int			found = mapped(mapping, lfirst_int(lc));

		if (column->is_generated)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("primary key column \"%s\" of table \"%s\" is a generated column",
							column->name, facts->name),
					 errdetail("Messages identify rows by the primary key, and PostgreSQL refuses values for a generated column."),
					 errhint("Use a primary key of columns that are not generated.")));
		if (found < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("primary key column \"%s\" is not among the fields of replica \"%s\"",
							column->name, binding->row->cqrs_id),
					 errdetail("Messages identify a row by its primary key."),
					 errhint("Add \"%s\" to \"fields\".", column->name)));
		mapping->keys[mapping->nkeys++] = found;
	}
}

/* Each key of a message is the value of one column. */
static void
check_keys(const Binding *binding)
{
	const CqrsMapping *mapping = binding->mapping;

	for (int i = 0; i < mapping->ncolumns; i++)
	{
		for (int j = 0; j < i; j++)
		{
			if (strcmp(mapping->columns[i].key, mapping->columns[j].key) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("columns \"%s\" and \"%s\" of replica \"%s\" have the same key \"%s\"",
								mapping->columns[j].column,
								mapping->columns[i].column,
								binding->row->cqrs_id,
								mapping->columns[i].key),
						 errdetail("The key of a column is its name, unless \"field_map\" gives another one."),
						 errhint("Give the columns different keys in \"field_map\".")));
		}
	}
}

/* The index of a column in mapping->columns, or -1. */
static int
mapped(const CqrsMapping *mapping, AttrNumber attnum)
{
	for (int i = 0; i < mapping->ncolumns; i++)
	{
		if (mapping->columns[i].attnum == attnum)
			return i;
	}
	return -1;
}
