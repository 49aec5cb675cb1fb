/*-------------------------------------------------------------------------
 *
 * column_use.c
 *	  Which columns of its table the options of a master use.
 *
 * Works on the row of cqrs.master alone, which need not fit the table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/strings.h"
#include "define/columns.h"
#include "master/column_use.h"
#include "master/condition.h"

const char *
cqrs_column_use_find(const CqrsMasterRow *row, const char *name)
{
	if (cqrs_columns_is_own(name))
		return psprintf("Master \"%s\" keeps count of changes in the column.",
						row->cqrs_id);
	if (row->options[CQRS_OPTION_FIELDS].isnull ||
		cqrs_strings_have(cqrs_master_names(row, CQRS_OPTION_FIELDS), name))
		return psprintf("Master \"%s\" publishes the column.", row->cqrs_id);
	if (cqrs_column_use_publishes(row, name))
		return psprintf("Master \"%s\" publishes previous values of the column.",
						row->cqrs_id);
	if (cqrs_column_use_key(row, name) != name)
		return psprintf("Master \"%s\" maps the column to a key.", row->cqrs_id);
	if (cqrs_column_use_in_condition(row, name))
		return psprintf("Master \"%s\" uses the column in sync_when.",
						row->cqrs_id);
	return NULL;
}

bool
cqrs_column_use_publishes(const CqrsMasterRow *row, const char *name)
{
	List	   *tracked = cqrs_master_names(row, CQRS_OPTION_TRACKED_FIELDS);

	return row->options[CQRS_OPTION_FIELDS].isnull ||
		cqrs_columns_is_own(name) ||
		cqrs_strings_have(cqrs_master_names(row, CQRS_OPTION_FIELDS), name) ||
		cqrs_strings_have(tracked, name) ||
		(list_length(tracked) == 1 && cqrs_strings_have(tracked, "*"));
}

const char *
cqrs_column_use_key(const CqrsMasterRow *row, const char *name)
{
	return cqrs_columns_key(&row->options[CQRS_OPTION_FIELD_MAP], name);
}

bool
cqrs_column_use_in_condition(const CqrsMasterRow *row, const char *name)
{
	char	   *condition = cqrs_master_text(row, CQRS_OPTION_SYNC_WHEN);

	return condition != NULL &&
		cqrs_condition_names_column(condition, "sync_when", name);
}

void
cqrs_column_use_rename(CqrsMasterRow *row, const char *from, const char *to)
{
	cqrs_columns_rename_in_map(&row->options[CQRS_OPTION_FIELD_MAP], from, to,
							   cqrs_column_use_publishes(row, from));
	cqrs_columns_rename_in_list(&row->options[CQRS_OPTION_FIELDS], from, to);
	cqrs_columns_rename_in_list(&row->options[CQRS_OPTION_TRACKED_FIELDS],
								from, to);
}
