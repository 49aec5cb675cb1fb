/*-------------------------------------------------------------------------
 *
 * definition.c
 *	  What the options of a master do with columns of its table.
 *
 * Works on the row of cqrs.master alone, which need not fit the table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "definition.h"

static bool list_has_name(List *names, const char *name);
static void rename_in_list(List *names, const char *from, const char *to);
static Datum rename_in_map(Datum map, const char *from, const char *to,
						   bool publishes);

const char *
cqrs_definition_use(const CqrsMasterRow *row, const char *name)
{
	if (cqrs_definition_is_own(name))
		return "keeps count of changes in it";
	if (row->fields == NIL || list_has_name(row->fields, name))
		return "publishes it";
	if (cqrs_definition_publishes(row, name))
		return "publishes its previous values";
	if (cqrs_definition_key(row, name) != name)
		return "maps it to a key";
	return NULL;
}

bool
cqrs_definition_publishes(const CqrsMasterRow *row, const char *name)
{
	return row->fields == NIL || cqrs_definition_is_own(name) ||
		list_has_name(row->fields, name) ||
		list_has_name(row->tracked_fields, name) ||
		(list_length(row->tracked_fields) == 1 &&
		 list_has_name(row->tracked_fields, "*"));
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

	if (row->field_map == (Datum) 0)
		return name;
	value = getKeyJsonValueFromContainer(&DatumGetJsonbP(row->field_map)->root,
										 name, strlen(name), &buffer);
	if (value == NULL || value->type != jbvString)
		return name;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

void
cqrs_definition_rename(CqrsMasterRow *row, const char *from, const char *to)
{
	row->field_map = rename_in_map(row->field_map, from, to,
								   cqrs_definition_publishes(row, from));
	rename_in_list(row->fields, from, to);
	rename_in_list(row->tracked_fields, from, to);
}

static bool
list_has_name(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	}
	return false;
}

static void
rename_in_list(List *names, const char *from, const char *to)
{
	ListCell   *lc;

	foreach(lc, names)
	{
		if (strcmp(lfirst(lc), from) == 0)
			lfirst(lc) = pstrdup(to);
	}
}

/* A published column keeps the key that it has had, be that its old name. */
static Datum
rename_in_map(Datum map, const char *from, const char *to, bool publishes)
{
	JsonbParseState *state = NULL;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	name;
	JsonbValue	value;
	JsonbValue *object;
	char	   *key = publishes ? pstrdup(from) : NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
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
			pushJsonbValue(&state, WJB_KEY, &name);
			pushJsonbValue(&state, WJB_VALUE, &value);
		}
	}
	if (key != NULL && strcmp(key, to) != 0)
	{
		name.type = value.type = jbvString;
		name.val.string.val = pstrdup(to);
		name.val.string.len = strlen(to);
		value.val.string.val = key;
		value.val.string.len = strlen(key);
		pushJsonbValue(&state, WJB_KEY, &name);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	object = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return object->val.object.nPairs == 0 ? (Datum) 0 :
		JsonbPGetDatum(JsonbValueToJsonb(object));
}
