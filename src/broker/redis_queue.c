/*-------------------------------------------------------------------------
 *
 * redis_queue.c
 *	  Queues and bindings in a Redis server, as Kombu makes them.
 *
 * A binding is a member of the set of its exchange: routing key, regular
 * expression and queue.  Kombu 5.7 also has a set of bindings that stay when a
 * consumer ends.  A queue is a list, which exists while it has messages; Kombu
 * uses three more lists for messages with a priority.
 *
 * These functions wait, each for at most the timeout of the options.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "broker/failure.h"
#include "broker/redis.h"
#include "broker/redis_scripts.h"

#define SEPARATOR	"\x06\x16"
/* Of a number of 64 bits, with a zero. */
#define CURSOR_BYTES 24

/* The prefixes of the sets. */
static const char *const sets[] = {
	"_kombu.binding.", "_kombu.binding_permanent."
};

static bool change_bindings(CqrsConnection *connection, const CqrsQueue *queue,
							List *(*words) (char *set,
											const CqrsBinding *binding,
											const char *queue),
							const char *action, CqrsFailure *failure);
static List *bind_words(char *set, const CqrsBinding *binding,
						const char *queue);
static List *unbind_words(char *set, const CqrsBinding *binding,
						  const char *queue);
static bool unbind_everywhere(CqrsConnection *connection, const char *queue,
							  CqrsFailure *failure);
static bool unbind_page(CqrsConnection *connection, const char *queue,
						char *cursor, CqrsFailure *failure);
static char *make_member(const CqrsBinding *binding, const char *queue);
static void put_word(StringInfo member, const char *word, Size length);
static bool run(CqrsConnection *connection, const char *action,
				CqrsFailure *failure, List *words);

bool
cqrs_redis_prepare_queue(CqrsConnection *connection, const CqrsQueue *queue,
						 CqrsFailure *failure)
{
	return change_bindings(connection, queue, bind_words, "could not bind the queue",
						   failure);
}

bool
cqrs_redis_unbind(CqrsConnection *connection, const CqrsQueue *queue,
				  CqrsFailure *failure)
{
	return change_bindings(connection, queue, unbind_words, "could not unbind the queue",
						   failure);
}

/* Run a command for each binding of a queue, and each set. */
static bool
change_bindings(CqrsConnection *connection, const CqrsQueue *queue,
				List *(*words) (char *set, const CqrsBinding *binding,
								const char *queue),
				const char *action, CqrsFailure *failure)
{
	ListCell   *lc;

	foreach(lc, queue->bindings)
	{
		const CqrsBinding *binding = lfirst(lc);

		for (int i = 0; i < lengthof(sets); i++)
		{
			char	   *set = psprintf("%s%s", sets[i], binding->exchange);

			if (!run(connection, action, failure,
					 words(set, binding, queue->name)))
				return false;
		}
	}
	return true;
}

/* The command that adds a binding to a set, as a list of words. */
static List *
bind_words(char *set, const CqrsBinding *binding, const char *queue)
{
	return list_make3("SADD", set, make_member(binding, queue));
}

static List *
unbind_words(char *set, const CqrsBinding *binding, const char *queue)
{
	return lappend(list_make5("EVAL", CQRS_SCRIPT_UNBIND, "1", set,
							  unconstify(char *, queue)),
				   unconstify(char *, binding->routing_key));
}

/* Bindings first: a publisher would make the list anew. */
bool
cqrs_redis_delete_queue(CqrsConnection *connection, const char *queue,
						CqrsFailure *failure)
{
	return unbind_everywhere(connection, queue, failure) &&
		run(connection, "could not delete the queue", failure,
			lappend(list_make5("DEL", unconstify(char *, queue),
							   psprintf("%s" SEPARATOR "3", queue),
							   psprintf("%s" SEPARATOR "6", queue),
							   psprintf("%s" SEPARATOR "9", queue)),
					psprintf("%s%s", CQRS_REDIS_DELIVERED, queue)));
}

/*
 * Remove a queue from the sets of bindings of all exchanges.  The server looks
 * at all its keys, some for each command, so that it serves others meanwhile.
 * A set may be found more than once.  A server that never comes to the end is
 * given up after the timeout.
 */
static bool
unbind_everywhere(CqrsConnection *connection, const char *queue,
				  CqrsFailure *failure)
{
	char		cursor[CURSOR_BYTES] = "0";
	int64		deadline = cqrs_socket_deadline(connection->timeout_ms);
	MemoryContext page = AllocSetContextCreate(connection->context,
											   "cqrs keys",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(page);
	bool		done;

	do
	{
		MemoryContextReset(page);
		done = unbind_page(connection, queue, cursor, failure);
		if (done && !cqrs_socket_may_go_on(deadline))
		{
			cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
							 "could not unbind the queue: the broker did not list all its keys in time");
			done = false;
		}
	} while (done && strcmp(cursor, "0") != 0);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(page);
	return done;
}

/*
 * Remove the queue from the next part of the sets; the cursor moves on, to "0"
 * at the end.
 */
static bool
unbind_page(CqrsConnection *connection, const char *queue, char *cursor,
			CqrsFailure *failure)
{
	const char *words[] = {
		"SCAN", cursor, "MATCH", "_kombu.binding*", "COUNT", "1000"
	};
	const CqrsReply *reply = cqrs_redis_command(connection, "could not unbind the queue",
												failure, lengthof(words), words);
	const CqrsReply *keys;
	List	   *sets_found = NIL;
	ListCell   *lc;

	if (reply == NULL)
		return false;
	if (reply->type != CQRS_REPLY_ARRAY || reply->nelements != 2 ||
		reply->elements[0].type != CQRS_REPLY_TEXT ||
		reply->elements[0].length >= CURSOR_BYTES ||
		reply->elements[1].type != CQRS_REPLY_ARRAY)
	{
		cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
						 "could not unbind the queue: protocol violation by the broker: unexpected reply");
		return false;
	}
	strlcpy(cursor, reply->elements[0].text, CURSOR_BYTES);
	keys = &reply->elements[1];
	/* The next command replaces the reply. */
	for (int i = 0; i < keys->nelements; i++)
	{
		if (keys->elements[i].type == CQRS_REPLY_TEXT)
			sets_found = lappend(sets_found, pstrdup(keys->elements[i].text));
	}
	foreach(lc, sets_found)
	{
		if (!run(connection, "could not unbind the queue", failure,
				 list_make5("EVAL", CQRS_SCRIPT_UNBIND, "1", lfirst(lc),
							unconstify(char *, queue))))
			return false;
	}
	return true;
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

/* Append a word with a backslash before what a pattern may give a meaning. */
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
