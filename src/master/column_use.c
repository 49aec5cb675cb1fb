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

#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "base/compat.h"
#include "define/option.h"
#include "master/column_use.h"
#include "master/condition.h"

static void rename_in_list(NullableDatum *option, const char *from,
						   const char *to);
static Datum rename_in_map(Datum map, const char *from, const char *to,
						   bool publishes);

const char *
cqrs_definition_use(const CqrsMasterRow *row, const char *name)
{
	if (cqrs_definition_is_own(name))
		return "keeps count of changes in it";
	if (row->options[CQRS_OPTION_FIELDS].isnull ||
		cqrs_master_has_name(cqrs_master_names(row, CQRS_OPTION_FIELDS), name))
		return "publishes it";
	if (cqrs_definition_publishes(row, name))
		return "publishes its previous values";
	if (cqrs_definition_key(row, name) != name)
		return "maps it to a key";
	if (cqrs_definition_condition_uses(row, name))
		return "has it in sync_when";
	return NULL;
}

bool
cqrs_definition_publishes(const CqrsMasterRow *row, const char *name)
{
	List	   *tracked = cqrs_master_names(row, CQRS_OPTION_TRACKED_FIELDS);

	return row->options[CQRS_OPTION_FIELDS].isnull ||
		cqrs_definition_is_own(name) ||
		cqrs_master_has_name(cqrs_master_names(row, CQRS_OPTION_FIELDS), name) ||
		cqrs_master_has_name(tracked, name) ||
		(list_length(tracked) == 1 && cqrs_master_has_name(tracked, "*"));
}

bool
cqrs_definition_is_own(const char *name)
{
	return strcmp(name, "cqrs_revision") == 0 ||
		strcmp(name, "cqrs_updated") == 0;
}

const char *
cqrs_definition_key(const CqrsMasterRow *row, const char *name)
{
	JsonbValue	buffer;
	JsonbValue *value;

	if (row->options[CQRS_OPTION_FIELD_MAP].isnull)
		return name;
	value = getKeyJsonValueFromContainer(&DatumGetJsonbP(row->options[CQRS_OPTION_FIELD_MAP].value)->root,
										 name, strlen(name), &buffer);
	if (value == NULL || value->type != jbvString)
		return name;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

bool
cqrs_definition_condition_uses(const CqrsMasterRow *row, const char *name)
{
	char	   *condition = cqrs_master_text(row, CQRS_OPTION_SYNC_WHEN);

	return condition != NULL &&
		cqrs_condition_names_column(condition, "sync_when", name);
}

void
cqrs_definition_rename(CqrsMasterRow *row, const char *from, const char *to)
{
	NullableDatum *map = &row->options[CQRS_OPTION_FIELD_MAP];

	map->value = rename_in_map(map->isnull ? (Datum) 0 : map->value, from, to,
							   cqrs_definition_publishes(row, from));
	map->isnull = map->value == (Datum) 0;
	rename_in_list(&row->options[CQRS_OPTION_FIELDS], from, to);
	rename_in_list(&row->options[CQRS_OPTION_TRACKED_FIELDS], from, to);
}

static void
rename_in_list(NullableDatum *option, const char *from, const char *to)
{
	List	   *names;
	ListCell   *lc;

	if (option->isnull)
		return;
	names = cqrs_option_text_list(option->value);
	foreach(lc, names)
	{
		if (strcmp(lfirst(lc), from) == 0)
			lfirst(lc) = pstrdup(to);
	}
	option->value = cqrs_option_text_array(names);
}

/* A published column keeps its key, even if the key is its old name. */
static Datum
rename_in_map(Datum map, const char *from, const char *to, bool publishes)
{
	CqrsJsonbState state = {0};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	name;
	JsonbValue	value;
	char	   *key = publishes ? pstrdup(from) : NULL;

	cqrs_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	if (map != (Datum) 0)
	{
		it = JsonbIteratorInit(&DatumGetJsonbP(map)->root);
		while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
		{
			if (token == WJB_KEY)
				name = value;
			if (token != WJB_VALUE)
				continue;
			if (name.val.string.len == strlen(from) &&
				memcmp(name.val.string.val, from, strlen(from)) == 0)
			{
				key = pnstrdup(value.val.string.val, value.val.string.len);
				continue;
			}
			cqrs_push_jsonb(&state, WJB_KEY, &name);
			cqrs_push_jsonb(&state, WJB_VALUE, &value);
		}
	}
	if (key != NULL && strcmp(key, to) != 0)
	{
		name.type = value.type = jbvString;
		name.val.string.val = pstrdup(to);
		name.val.string.len = strlen(to);
		value.val.string.val = key;
		value.val.string.len = strlen(key);
		cqrs_push_jsonb(&state, WJB_KEY, &name);
		cqrs_push_jsonb(&state, WJB_VALUE, &value);
	}
	cqrs_push_jsonb(&state, WJB_END_OBJECT, NULL);
	return state.result->val.object.nPairs == 0 ? (Datum) 0 :
		JsonbPGetDatum(JsonbValueToJsonb(state.result));
}
