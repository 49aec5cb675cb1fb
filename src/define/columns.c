/*-------------------------------------------------------------------------
 *
 * columns.c
 *	  Options that name columns of a table: lists of them, and the map from
 *	  columns to keys of messages.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "base/compat.h"
#include "define/columns.h"
#include "define/option.h"

void
cqrs_columns_check_distinct(List *names, const char *option)
{
	ListCell   *lc;

	foreach(lc, names)
	{
		const char *name = lfirst(lc);

		for (int i = 0; i < foreach_current_index(lc); i++)
		{
			if (strcmp(list_nth(names, i), name) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("column \"%s\" is named twice in \"%s\"",
								name, option),
						 errdetail("A message has each column once."),
						 errhint("Name the column once.")));
		}
	}
}

bool
cqrs_columns_is_own(const char *name)
{
	return strcmp(name, "cqrs_revision") == 0 ||
		strcmp(name, "cqrs_updated") == 0;
}

const char *
cqrs_columns_key(const NullableDatum *map, const char *name)
{
	JsonbValue	buffer;
	JsonbValue *value;

	if (map->isnull)
		return name;
	value = getKeyJsonValueFromContainer(&DatumGetJsonbP(map->value)->root,
										 name, strlen(name), &buffer);
	if (value == NULL || value->type != jbvString)
		return name;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

List *
cqrs_columns_mapped(const NullableDatum *option)
{
	Jsonb	   *map;
	JsonbIterator *it;
	JsonbValue	value;
	JsonbIteratorToken token;
	List	   *columns = NIL;

	if (option->isnull)
		return NIL;

	map = DatumGetJsonbP(option->value);
	if (!JB_ROOT_IS_OBJECT(map))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"field_map\" must be a JSON object"),
				 errdetail("The value is an array or a scalar."),
				 errhint("Map columns to keys, as in {\"author_id\": \"author\"}.")));

	it = JsonbIteratorInit(&map->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			columns = lappend(columns, pnstrdup(value.val.string.val,
												value.val.string.len));
		else if (token == WJB_VALUE &&
				 (value.type != jbvString || value.val.string.len == 0))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("key of column \"%s\" in \"field_map\" must be a string that is not empty",
							(char *) llast(columns)),
					 errdetail("The key is the name of the column in messages."),
					 errhint("Map columns to keys, as in {\"author_id\": \"author\"}.")));
	}
	return columns;
}

void
cqrs_columns_rename_in_list(NullableDatum *option, const char *from,
							const char *to)
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

void
cqrs_columns_rename_in_map(NullableDatum *map, const char *from,
						   const char *to, bool keeps_key)
{
	CqrsJsonbState state = {0};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	name;
	JsonbValue	value;
	char	   *key = keeps_key ? pstrdup(from) : NULL;

	cqrs_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	if (!map->isnull)
	{
		it = JsonbIteratorInit(&DatumGetJsonbP(map->value)->root);
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
	map->isnull = state.result->val.object.nPairs == 0;
	map->value = map->isnull ? (Datum) 0 :
		JsonbPGetDatum(JsonbValueToJsonb(state.result));
}
