/*-------------------------------------------------------------------------
 *
 * redis_advice.c
 *	  Settings of a Redis server with which messages can be lost.
 *
 * They are read when a publisher connects, and may have changed since.  A user
 * may not be allowed to read them; there is no advice about settings that are
 * not known.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "broker/failure.h"
#include "broker/redis.h"

/* Of a value that is shown. */
#define VALUE_BYTES		64

static bool info_value(const char *info, const char *name, char *value);
static bool read_info(CqrsConnection *connection, const char *section,
					  const char **info, CqrsFailure *failure);
static bool read_fsync(CqrsConnection *connection, char *value,
					   CqrsFailure *failure);
static void add(StringInfo found, StringInfo remedy, const char *what,
				const char *setting);

bool
cqrs_redis_read_settings(CqrsConnection *connection, CqrsFailure *failure)
{
	const char *info;
	char		value[VALUE_BYTES];
	char		limit[VALUE_BYTES];
	StringInfoData found;
	StringInfoData remedy;
	bool		has_file = false;

	initStringInfo(&found);
	initStringInfo(&remedy);
	if (!read_info(connection, "persistence", &info, failure))
		return false;
	if (info_value(info, "aof_enabled", value))
	{
		has_file = strcmp(value, "0") != 0;
		if (!has_file)
			add(&found, &remedy,
				"a crash of the broker loses what is in its queues, because it writes no append-only file",
				"appendonly yes, appendfsync always");
	}
	if (!read_info(connection, "memory", &info, failure))
		return false;
	if (info_value(info, "maxmemory", limit) && strcmp(limit, "0") != 0 &&
		info_value(info, "maxmemory_policy", value) &&
		strcmp(value, "noeviction") != 0)
		add(&found, &remedy,
			psprintf("if its memory is full, the broker deletes queues, bindings or leases, because maxmemory-policy is %s",
					 value),
			"maxmemory-policy noeviction");
	if (!read_info(connection, "replication", &info, failure))
		return false;
	if (info_value(info, "role", value) && strcmp(value, "slave") == 0)
		add(&found, &remedy,
			"the broker is a replica of another server, which overwrites what is published to it",
			"replica-read-only yes, and the URL of the other server in cqrs.url");

	if (has_file)
	{
		if (!read_fsync(connection, value, failure))
			return false;
		if (strcmp(value, "no") == 0)
			add(&found, &remedy,
				"a crash of the broker's host loses messages of many seconds, because appendfsync is no",
				"appendfsync always");
	}
	if (found.len > 0)
		connection->advice =
			MemoryContextStrdup(connection->context,
								psprintf("%s\nin the broker's configuration: %s",
										 found.data, remedy.data));
	pfree(found.data);
	pfree(remedy.data);
	return true;
}

const char *
cqrs_redis_advice(const CqrsConnection *connection)
{
	return connection->advice;
}

/*
 * A section of INFO, until the next command; "": not known.  Other sections can
 * be longer than a reply may be.
 */
static bool
read_info(CqrsConnection *connection, const char *section, const char **info,
		  CqrsFailure *failure)
{
	const char *words[] = {"INFO", section};
	const CqrsReply *reply = cqrs_redis_try(connection, "could not read settings",
											failure, 2, words);

	if (reply == NULL)
		return false;
	*info = reply->type == CQRS_REPLY_TEXT ? reply->text : "";
	return true;
}

/* The value of a name in the answer to INFO; false: it does not have the name. */
static bool
info_value(const char *info, const char *name, char *value)
{
	Size		length = strlen(name);

	for (const char *line = info; line != NULL; line = strchr(line, '\n'))
	{
		line += *line == '\n' ? 1 : 0;
		if (strncmp(line, name, length) == 0 && line[length] == ':')
		{
			line += length + 1;
			cqrs_failure_quote(value, VALUE_BYTES, line, strcspn(line, "\r\n"));
			return true;
		}
	}
	return false;
}

/* "": not known. */
static bool
read_fsync(CqrsConnection *connection, char *value, CqrsFailure *failure)
{
	static const char *const words[] = {"CONFIG", "GET", "appendfsync"};
	const CqrsReply *reply = cqrs_redis_try(connection, "could not read settings",
											failure, 3, words);

	value[0] = '\0';
	if (reply == NULL)
		return false;
	if (reply->type == CQRS_REPLY_ARRAY && reply->nelements == 2 &&
		reply->elements[1].type == CQRS_REPLY_TEXT)
		cqrs_failure_quote(value, VALUE_BYTES, reply->elements[1].text,
						   reply->elements[1].length);
	return true;
}

/* Add what can go wrong, and the setting that prevents it. */
static void
add(StringInfo found, StringInfo remedy, const char *what,
	const char *setting)
{
	appendStringInfo(found, "%s%s", found->len > 0 ? "; " : "", what);
	appendStringInfo(remedy, "%s%s", remedy->len > 0 ? "; " : "", setting);
}
