/*-------------------------------------------------------------------------
 *
 * redis_queue.c
 *	  Queues and bindings in a Redis server, as Kombu makes them.
 *
 * A binding is a member of the set of its exchange: routing key, regular
 * expression and queue.  Kombu 5.7 also has a set of those that stay when a
 * consumer ends.  A queue is a list, which is there while it has messages;
 * Kombu uses three more for messages with a priority.
 *
 * These functions wait, each for at most the timeout of the options.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "broker/redis.h"
#include "broker/redis_scripts.h"

#define SEPARATOR	"\x06\x16"

/* The prefixes of the sets. */
static const char *const sets[] = {
	"_kombu.binding.", "_kombu.binding_permanent."
};

static char *make_member(const CqrsBinding *binding, const char *queue);
static void put_word(StringInfo member, const char *word, Size length);
static bool run(CqrsConnection *connection, const char *action,
				CqrsFailure *failure, List *words);

bool
cqrs_redis_prepare_queue(CqrsConnection *connection, const CqrsQueue *queue,
						 CqrsFailure *failure)
{
	ListCell   *lc;

	foreach(lc, queue->bindings)
	{
		const CqrsBinding *binding = lfirst(lc);

		for (int i = 0; i < lengthof(sets); i++)
		{
			const char *words[] = {
				"SADD", psprintf("%s%s", sets[i], binding->exchange),
				make_member(binding, queue->name)
			};

			if (cqrs_redis_command(connection, "bind the queue", failure,
								   lengthof(words), words) == NULL)
				return false;
		}
	}
	return true;
}

bool
cqrs_redis_unbind(CqrsConnection *connection, const CqrsQueue *queue,
				  CqrsFailure *failure)
{
	ListCell   *lc;

	foreach(lc, queue->bindings)
	{
		const CqrsBinding *binding = lfirst(lc);

		for (int i = 0; i < lengthof(sets); i++)
		{
			const char *words[] = {
				"EVAL", CQRS_SCRIPT_UNBIND, "1",
				psprintf("%s%s", sets[i], binding->exchange), queue->name,
				binding->routing_key
			};

			if (cqrs_redis_command(connection, "unbind the queue", failure,
								   lengthof(words), words) == NULL)
				return false;
		}
	}
	return true;
}

/* Bindings first: a publisher would make the list anew. */
bool
cqrs_redis_delete_queue(CqrsConnection *connection, const char *queue,
						CqrsFailure *failure)
{
	const char *words[] = {"EVAL", CQRS_SCRIPT_EXCHANGES, "0"};
	const CqrsReply *reply = cqrs_redis_command(connection, "unbind the queue",
												failure, lengthof(words),
												words);
	List	   *found = NIL;
	ListCell   *lc;

	if (reply == NULL)
		return false;
	for (int i = 0; reply->type == CQRS_REPLY_ARRAY && i < reply->nelements; i++)
	{
		if (reply->elements[i].type == CQRS_REPLY_TEXT)
			found = lappend(found, pstrdup(reply->elements[i].text));
	}
	foreach(lc, found)
	{
		if (!run(connection, "unbind the queue", failure,
				 list_make5("EVAL", CQRS_SCRIPT_UNBIND, "1", lfirst(lc),
							unconstify(char *, queue))))
			return false;
	}
	return run(connection, "delete the queue", failure,
			   lappend(list_make5("DEL", unconstify(char *, queue),
								  psprintf("%s" SEPARATOR "3", queue),
								  psprintf("%s" SEPARATOR "6", queue),
								  psprintf("%s" SEPARATOR "9", queue)),
					   psprintf("%s%s", CQRS_REDIS_DELIVERED, queue)));
}

/*
 * A member as Kombu makes it.  A word that is a wildcard becomes an
 * expression; in others each character that is neither letter nor digit gets a
 * backslash, apart from "*" and "#".
 */
static char *
make_member(const CqrsBinding *binding, const char *queue)
{
	StringInfoData member;
	const char *word = binding->routing_key;

	initStringInfo(&member);
	appendStringInfo(&member, "%s%s^", word, SEPARATOR);
	for (;;)
	{
		Size		length = strcspn(word, ".");

		if (length == 1 && *word == '*')
			appendStringInfoString(&member, "[^\\.]+");
		else if (length == 1 && *word == '#')
			appendStringInfoString(&member, ".*?");
		else
			put_word(&member, word, length);
		word += length;
		if (*word == '\0')
			break;
		appendStringInfoString(&member, "\\.");
		word++;
	}
	appendStringInfo(&member, "$%s%s", SEPARATOR, queue);
	return member.data;
}

static void
put_word(StringInfo member, const char *word, Size length)
{
	for (const char *c = word; c < word + length; c++)
	{
		if (!IS_HIGHBIT_SET(*c) && !isalnum((unsigned char) *c) &&
			*c != '*' && *c != '#')
			appendStringInfoChar(member, '\\');
		appendStringInfoChar(member, *c);
	}
}

/* Run a command whose reply does not matter. */
static bool
run(CqrsConnection *connection, const char *action, CqrsFailure *failure,
	List *words)
{
	const char **array = palloc(list_length(words) * sizeof(char *));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, words)
		array[n++] = lfirst(lc);
	return cqrs_redis_command(connection, action, failure, n, array) != NULL;
}
