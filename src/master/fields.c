/*-------------------------------------------------------------------------
 *
 * fields.c
 *	  The columns that a master publishes and tracks.
 *
 * The options "fields", "tracked_fields" and "field_map" name columns by their
 * names.  Here the names become column numbers and keys of messages.  If an
 * option does not fit the table, an error is raised: to the user who sets the
 * option, or to the writer if the table was changed without the extension's
 * knowledge.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/strings.h"
#include "define/columns.h"
#include "master/column_use.h"
#include "master/fields.h"

static void resolve_fields(Relation rel, Relation root,
						   const CqrsRelation *relation,
						   const CqrsMasterRow *row, CqrsMaster *master);
static void resolve_tracked_fields(Relation rel, Relation root,
								   const CqrsMasterRow *row,
								   CqrsMaster *master);
static void check_field_map(Relation rel, const CqrsMasterRow *row);
static void check_names(Relation rel, const char *option, List *names);
static void check_keys(const CqrsMaster *master);
static void check_stored(Relation rel, AttrNumber attnum);
static CqrsField make_field(Relation rel, const char *column,
							const CqrsMasterRow *row);

void
cqrs_fields_bind(Relation rel, Relation root, const CqrsRelation *relation,
				 const CqrsMasterRow *row, CqrsMaster *master)
{
	check_field_map(rel, row);
	resolve_fields(rel, root, relation, row, master);
	check_keys(master);
	resolve_tracked_fields(rel, root, row, master);
}

/*
 * The published fields: all columns in their order, or the chosen columns in
 * the table's order.  cqrs_revision and cqrs_updated follow at the end, unless
 * they were chosen.
 */
static void
resolve_fields(Relation rel, Relation root, const CqrsRelation *relation,
			   const CqrsMasterRow *row, CqrsMaster *master)
{
	TupleDesc	desc = RelationGetDescr(root);
	List	   *chosen = cqrs_master_names(row, CQRS_OPTION_FIELDS);
	const char *last[2] = {"cqrs_revision", "cqrs_updated"};

	if (chosen != NIL)
	{
		check_names(rel, "fields", chosen);
		for (int i = 0; i < relation->nkeys; i++)
		{
			if (!cqrs_strings_have(chosen, relation->keys[i].column))
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("primary key column \"%s\" is not among the fields of master \"%s\"",
								relation->keys[i].column, row->cqrs_id),
						 errdetail("Replicas identify a row by its primary key."),
						 errhint("Add \"%s\" to \"fields\".",
								 relation->keys[i].column)));
		}
	}

	master->fields = palloc(sizeof(CqrsField) * (desc->natts + lengthof(last)));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped ||
			(chosen != NIL &&
			 !cqrs_strings_have(chosen, NameStr(att->attname))))
			continue;
		master->fields[master->nfields++] =
			make_field(rel, NameStr(att->attname), row);
	}
	for (int i = 0; i < lengthof(last); i++)
	{
		if (chosen != NIL && !cqrs_strings_have(chosen, last[i]))
			master->fields[master->nfields++] = make_field(rel, last[i], row);
	}
}

/* Set master->tracks, and the columns that it tracks. */
static void
resolve_tracked_fields(Relation rel, Relation root, const CqrsMasterRow *row,
					   CqrsMaster *master)
{
	TupleDesc	desc = RelationGetDescr(root);
	List	   *chosen = cqrs_master_names(row, CQRS_OPTION_TRACKED_FIELDS);
	bool		all = list_length(chosen) == 1 &&
	strcmp(linitial(chosen), "*") == 0;

	master->tracks = !row->options[CQRS_OPTION_TRACKED_FIELDS].isnull;
	if (!master->tracks)
		return;
	if (!all)
		check_names(rel, "tracked_fields", chosen);

	master->tracked = palloc(sizeof(CqrsField) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped)
			continue;
		if (all || cqrs_strings_have(chosen, NameStr(att->attname)))
			master->tracked[master->ntracked++] =
				make_field(rel, NameStr(att->attname), row);
	}
}

/* Raise an error if the option names a column that the table lacks. */
static void
check_field_map(Relation rel, const CqrsMasterRow *row)
{
	List	   *columns =
	cqrs_columns_mapped(&row->options[CQRS_OPTION_FIELD_MAP]);

	if (columns != NIL)
		check_names(rel, "field_map", columns);
}

/* Names must be those of columns, each at most once. */
static void
check_names(Relation rel, const char *option, List *names)
{
	ListCell   *lc;

	foreach(lc, names)
	{
		const char *name = lfirst(lc);
		AttrNumber	attnum = get_attnum(RelationGetRelid(rel), name);

		if (attnum <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of table \"%s\" does not exist",
							name, RelationGetRelationName(rel)),
					 errdetail("The option \"%s\" of a master names the column.",
							   option),
					 errhint("Name columns of the table; existing masters are changed by cqrs_alter().")));
	}
	cqrs_columns_check_distinct(names, option);
}

/* Replicas distinguish fields by their keys. */
static void
check_keys(const CqrsMaster *master)
{
	for (int i = 0; i < master->nfields; i++)
	{
		for (int j = 0; j < i; j++)
		{
			if (strcmp(master->fields[i].key, master->fields[j].key) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("columns \"%s\" and \"%s\" of master \"%s\" have the same key \"%s\"",
								master->fields[j].column,
								master->fields[i].column,
								master->cqrs_id, master->fields[i].key),
						 errdetail("The key of a column is its name, unless \"field_map\" gives another one."),
						 errhint("Give the columns different keys in \"field_map\".")));
		}
	}
}

/*
 * PostgreSQL 18 and later have columns that are computed when they are read.
 */
static void
check_stored(Relation rel, AttrNumber attnum)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);

	if (att->attgenerated == '\0' ||
		att->attgenerated == ATTRIBUTE_GENERATED_STORED)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("column \"%s\" of table \"%s\" is a virtual generated column",
					NameStr(att->attname), RelationGetRelationName(rel)),
			 errhint("Make the column STORED, or use \"fields\" to leave it out.")));
}

/* Describe a column.  Raises an error if it is a virtual generated column. */
static CqrsField
make_field(Relation rel, const char *column, const CqrsMasterRow *row)
{
	CqrsField	field = {0};

	field.attnum = get_attnum(RelationGetRelid(rel), column);
	check_stored(rel, field.attnum);
	field.column = pstrdup(column);
	field.key = unconstify(char *, cqrs_column_use_key(row, field.column));
	field.ours = cqrs_columns_is_own(column);
	return field;
}
