/*-------------------------------------------------------------------------
 *
 * content.c
 *	  What a message says about a row.
 *
 * The members of instance_data are matched with columns by their keys, because
 * masters may have other keys, and in another order.  Most messages of a
 * master have the same keys in the same order: the plan remembers the keys of
 * the last message.
 *
 * Values are read only when they are needed: a duplicate costs no more than its
 * key and its revision.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "apply/content.h"
#include "base/compat.h"

static void map_members(CqrsContent *content);
static int	find_column(CqrsPlan *plan, int member, const CqrsJsonValue *key);
static void read_saved_keys(CqrsContent *content);
static void read_deleted_keys(CqrsContent *content);
static const CqrsJsonValue *required_member(CqrsContent *content,
											const char *key);
pg_noreturn static void missing_key(const char *key);
static Datum read_value(CqrsContent *content, int column,
						const CqrsJsonValue *json, bool *isnull);
static Datum read_not_null(CqrsContent *content, int column,
						   const CqrsJsonValue *json);
pg_noreturn static void null_key(CqrsContent *content, int column);

void
cqrs_content_read_keys(CqrsContent *content)
{
	content->members = palloc0(sizeof(CqrsJsonValue *) *
							   content->plan->mapping.ncolumns);
	if (content->message->signal == CQRS_SIGNAL_DELETE)
		read_deleted_keys(content);
	else
	{
		map_members(content);
		read_saved_keys(content);
	}
}

bool
cqrs_content_read(CqrsContent *content, int column, Datum *value, bool *isnull)
{
	if (content->members[column] == NULL)
		return false;
	*value = read_value(content, column, content->members[column], isnull);
	if (*isnull && column == content->plan->mapping.updated)
		null_key(content, column);
	return true;
}

/* Find out which members of instance_data are columns. */
static void
map_members(CqrsContent *content)
{
	CqrsPlan   *plan = content->plan;
	const CqrsJsonMembers *data = &content->message->data;

	if (plan->nexpected < data->nmembers)
	{
		plan->expected = plan->expected == NULL ?
			MemoryContextAlloc(plan->context, sizeof(int) * data->nmembers) :
			repalloc(plan->expected, sizeof(int) * data->nmembers);
		for (int i = plan->nexpected; i < data->nmembers; i++)
			plan->expected[i] = Min(i, plan->mapping.ncolumns - 1);
		plan->nexpected = data->nmembers;
	}
	for (int i = 0; i < data->nmembers; i++)
	{
		int			column = find_column(plan, i, &data->members[i].key);

		if (column < 0)
			content->unknown_keys = true;
		else
			content->members[column] = &data->members[i].value;
	}
}

/* The column of a key, or -1.  Most messages have their keys in one order. */
static int
find_column(CqrsPlan *plan, int member, const CqrsJsonValue *key)
{
	const CqrsMappedColumn *columns = plan->mapping.columns;
	int			expected = plan->expected[member];

	if (cqrs_json_scan_is_key(key, columns[expected].key,
							  plan->key_lengths[expected]))
		return expected;
	for (int i = 0; i < plan->mapping.ncolumns; i++)
	{
		if (cqrs_json_scan_is_key(key, columns[i].key, plan->key_lengths[i]))
		{
			plan->expected[member] = i;
			return i;
		}
	}
	return -1;
}

/* The key and the revision of a SAVE or a SYNC. */
static void
read_saved_keys(CqrsContent *content)
{
	const CqrsMapping *mapping = &content->plan->mapping;

	for (int i = 0; i < mapping->ncolumns; i++)
	{
		if (content->members[i] == NULL &&
			(mapping->columns[i].required || i == mapping->revision ||
			 i == mapping->updated))
			missing_key(mapping->columns[i].key);
	}
	for (int i = 0; i < mapping->nkeys; i++)
	{
		int			column = mapping->keys[i];

		if (content->members[column] == NULL)
			missing_key(mapping->columns[column].key);
		content->keys[i] = read_not_null(content, column, content->members[column]);
	}
	content->revision =
		cqrs_content_integer(mapping->columns[mapping->revision].type,
							 read_not_null(content, mapping->revision,
										   content->members[mapping->revision]));
}

/*
 * The key and the revision of a DELETE.  The key is called "id", whatever the
 * column is called; a key of several columns is an array.
 */
static void
read_deleted_keys(CqrsContent *content)
{
	const CqrsMapping *mapping = &content->plan->mapping;
	const CqrsJsonValue *id = required_member(content, "id");
	const CqrsJsonValue *revision = required_member(content, "cqrs_revision");
	CqrsJsonMembers elements = {0};

	content->members[mapping->revision] = revision;
	content->members[mapping->updated] = required_member(content, "cqrs_updated");
	content->revision =
		cqrs_content_integer(mapping->columns[mapping->revision].type,
							 read_not_null(content, mapping->revision, revision));
	content->reading = "id";
	if (mapping->nkeys > 1)
	{
		if (id->kind == CQRS_JSON_ARRAY)
			cqrs_json_scan_array(id, &elements);
		if (elements.nmembers != mapping->nkeys)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
					 errmsg("key of a message is not an array of %d values",
							mapping->nkeys)));
	}
	for (int i = 0; i < mapping->nkeys; i++)
		content->keys[i] = read_not_null(content, mapping->keys[i],
										 mapping->nkeys == 1 ? id :
										 &elements.members[i].value);
}

/* A member of instance_data, or an error. */
static const CqrsJsonValue *
required_member(CqrsContent *content, const char *key)
{
	const CqrsJsonValue *json = cqrs_json_scan_find(&content->message->data, key);

	if (json == NULL)
		missing_key(key);
	return json;
}

static void
missing_key(const char *key)
{
	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA_FOUND),
			 errmsg("instance_data has no key \"%s\"", key)));
}

/*
 * A member as a value of its column.  Errors of types name the key meanwhile
 * (content->reading).
 */
static Datum
read_value(CqrsContent *content, int column, const CqrsJsonValue *json,
		   bool *isnull)
{
	Datum		value;

	content->reading = content->plan->mapping.columns[column].key;
	value = cqrs_value_in_read(content->plan->inputs[column], json, isnull);
	content->reading = NULL;
	return value;
}

/* The same, with an error for null. */
static Datum
read_not_null(CqrsContent *content, int column, const CqrsJsonValue *json)
{
	bool		isnull;
	Datum		value = read_value(content, column, json, &isnull);

	if (isnull)
		null_key(content, column);
	return value;
}

static void
null_key(CqrsContent *content, int column)
{
	ereport(ERROR,
			(errcode(ERRCODE_NOT_NULL_VIOLATION),
			 errmsg("null value in key \"%s\" of instance_data",
					content->plan->mapping.columns[column].key)));
}

int64
cqrs_content_integer(Oid type, Datum value)
{
	switch (type)
	{
		case INT2OID:
			return DatumGetInt16(value);
		case INT4OID:
			return DatumGetInt32(value);
		default:
			return DatumGetInt64(value);
	}
}
