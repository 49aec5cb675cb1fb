/*-------------------------------------------------------------------------
 *
 * redis_handshake.c
 *	  Commands to a Redis server that are waited for: the login, the lease,
 *	  and marks.
 *
 * A lease is a key that expires (redis_scripts.h).  It is renewed while the
 * connection is alive (redis_publish.c), and its owner has lost it when a
 * script does not find the owner's token in it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "base/timing.h"
#include "broker/failure.h"
#include "broker/redis.h"
#include "broker/redis_scripts.h"

/* The time to live of a lease without heartbeats. */
#define LEASE_MS			60000
/* The longest wait for the answer of the server when the lease is given up. */
#define CLOSE_TIMEOUT_MS	500
#define MARK_PREFIX			"cqrs.mark."
#define TOKEN_BYTES			40

static bool authenticate(CqrsConnection *connection, const CqrsUrl *url,
						 CqrsFailure *failure);
static bool select_database(CqrsConnection *connection, const CqrsUrl *url,
							CqrsFailure *failure);
static bool is_expected(const CqrsReply *reply, CqrsReplyType type,
						const char *action, CqrsFailure *failure);
static bool look_around(CqrsConnection *connection, CqrsFailure *failure);
static bool check_transactions(CqrsConnection *connection,
							   CqrsFailure *failure);
static bool take_lease(CqrsConnection *connection,
					   const CqrsConnectOptions *options,
					   CqrsFailure *failure);
static void make_token(char *owner, char *epoch);
static void put_command(CqrsConnection *connection, int nwords,
						const char *const *words);
static bool settle(CqrsConnection *connection, const char *action,
				   int64 deadline, CqrsFailure *failure);
static const CqrsReply *await(CqrsConnection *connection, const char *action,
							  int64 deadline, CqrsFailure *failure);
static bool step(CqrsConnection *connection, const char *action,
				 int64 deadline, CqrsReply **reply, CqrsFailure *failure);

bool
cqrs_redis_log_in(CqrsConnection *connection,
				  const CqrsConnectOptions *options, CqrsFailure *failure)
{
	char	   *name = pstrdup(options->name);
	const char *words[] = {"CLIENT", "SETNAME", name};

	if (!authenticate(connection, options->url, failure) ||
		!select_database(connection, options->url, failure))
		return false;
	/* The name must not contain blanks, and the user may not be allowed to. */
	for (char *c = name; *c != '\0'; c++)
		*c = *c == ' ' ? '-' : *c;
	put_command(connection, lengthof(words), words);
	return await(connection, "could not name the connection",
				 cqrs_socket_deadline(connection->timeout_ms),
				 failure) != NULL &&
		(options->consumes || look_around(connection, failure)) &&
		take_lease(connection, options, failure);
}

/*
 * The server's text is not shown: the error for an unknown command quotes the
 * command's arguments.
 */
static bool
authenticate(CqrsConnection *connection, const CqrsUrl *url,
			 CqrsFailure *failure)
{
	bool		has_user = url->user != NULL && url->user[0] != '\0';
	const char *password = url->password != NULL ? url->password : "";
	const char *words[] = {"AUTH", has_user ? url->user : password, password};
	const CqrsReply *reply;

	if (!has_user && password[0] == '\0')
		return true;
	put_command(connection, has_user ? 3 : 2, words);
	reply = await(connection, "could not log in",
				  cqrs_socket_deadline(connection->timeout_ms),
				  failure);
	if (reply == NULL || reply->type != CQRS_REPLY_ERROR)
		return reply != NULL;
	if (strncmp(reply->text, "LOADING ", 8) == 0)
		cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
						 "could not log in: the broker is still loading its data");
	else
		cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
						 "could not log in: the broker has refused user and password");
	return false;
}

/* The path of the URL is the number of the database. */
static bool
select_database(CqrsConnection *connection, const CqrsUrl *url,
				CqrsFailure *failure)
{
	const char *words[] = {"SELECT", url->path};
	const CqrsReply *reply;

	if (url->path == NULL)
		return true;
	if (strspn(url->path, "0123456789") != strlen(url->path))
	{
		cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
						 "invalid URL: The path must be the number of a database, as in redis://host/0.");
		return false;
	}
	reply = cqrs_redis_command(connection, "could not select the database", failure,
							   lengthof(words), words);
	return reply != NULL &&
		is_expected(reply, CQRS_REPLY_TEXT, "could not select the database", failure);
}

/* Whether a reply is of this type; a status is a text. */
static bool
is_expected(const CqrsReply *reply, CqrsReplyType type, const char *action,
			CqrsFailure *failure)
{
	if (reply->type == type)
		return true;
	cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
					 "%s: protocol violation by the broker: unexpected reply",
					 action);
	return false;
}

/* Find out what a publisher must know of the server. */
static bool
look_around(CqrsConnection *connection, CqrsFailure *failure)
{
	return cqrs_redis_read_settings(connection, failure) &&
		check_transactions(connection, failure);
}

/*
 * Whether the user may use transactions.  EXEC comes first, which is an error
 * then, too: a transaction that cannot be ended would swallow all commands.
 */
static bool
check_transactions(CqrsConnection *connection, CqrsFailure *failure)
{
	static const char *const commands[] = {"EXEC", "MULTI", "EXEC"};
	static const CqrsReplyType expected[] = {
		CQRS_REPLY_ERROR, CQRS_REPLY_TEXT, CQRS_REPLY_ARRAY
	};

	for (int i = 0; i < lengthof(commands); i++)
	{
		const CqrsReply *reply = cqrs_redis_try(connection, "could not begin a transaction",
												failure, 1, &commands[i]);

		if (reply == NULL)
			return false;
		if (reply->type != expected[i] ||
			(i == 0 && strstr(reply->text, "without MULTI") == NULL))
			return true;
	}
	connection->owner.transactions = true;
	return true;
}

/*
 * A lease is taken even if none is wanted, because the value of its key keeps
 * batches in sequence (redis_scripts.h).
 */
static bool
take_lease(CqrsConnection *connection, const CqrsConnectOptions *options,
		   CqrsFailure *failure)
{
	int			nkeys = 1 + list_length(options->vacant);
	const char **words = palloc((6 + nkeys) * sizeof(char *));
	char		owner[TOKEN_BYTES];
	char		epoch[TOKEN_BYTES];
	int			n = 0;
	ListCell   *lc;
	const CqrsReply *reply;
	bool		taken;

	make_token(owner, epoch);
	connection->owner.lease =
		MemoryContextStrdup(connection->context,
							options->lease != NULL ? options->lease :
							psprintf("cqrs.connection.%s", epoch));
	connection->owner.queue_limit = options->queue_limit;
	connection->owner.replicas = options->confirm_replicas;
	connection->owner.lease_ms = options->heartbeat_s == 0 ? LEASE_MS :
		2000 * options->heartbeat_s;
	connection->owner.replicas_ms = Min(connection->owner.lease_ms / 4, 1000);
	words[n++] = "EVAL";
	words[n++] = CQRS_SCRIPT_TAKE_LEASE;
	words[n++] = psprintf("%d", nkeys);
	words[n++] = connection->owner.lease;
	foreach(lc, options->vacant)
		words[n++] = lfirst(lc);
	words[n++] = owner;
	words[n++] = epoch;
	words[n++] = psprintf("%d", connection->owner.lease_ms);
	reply = cqrs_redis_command(connection, "could not take the lease", failure, n, words);
	taken = reply != NULL &&
		is_expected(reply, CQRS_REPLY_INTEGER, "could not take the lease", failure);
	if (taken)
	{
		char	   *token = psprintf("%s %s", owner, epoch);

		connection->owner.token = MemoryContextStrdup(connection->context,
													  token);
		connection->owner.name = MemoryContextStrdup(connection->context,
													 owner);
		connection->owner.epoch = MemoryContextStrdup(connection->context,
													  epoch);
	}
	pfree(words);
	return taken;
}

/*
 * The owner is the same for all connections of this database while the server
 * runs, and differs from that of any other, on this host or elsewhere.
 */
static void
make_token(char *owner, char *epoch)
{
	char		host[256] = "";
	char	   *text;
	uint64		hash;
	uint64		number = 0;

	(void) gethostname(host, sizeof(host) - 1);
	text = psprintf("%s %d " INT64_FORMAT " %u %s", host, (int) PostmasterPid,
					(int64) PgStartTime, MyDatabaseId, DataDir);
	hash = DatumGetUInt64(hash_any_extended((const unsigned char *) text,
											strlen(text), 0));
	if (!pg_strong_random(&number, sizeof(number)))
		number = GetCurrentTimestamp();
	snprintf(owner, TOKEN_BYTES, "%016llx", (unsigned long long) hash);
	snprintf(epoch, TOKEN_BYTES, "%016llx", (unsigned long long) number);
	pfree(text);
}

/*
 * The lease is given up even if nobody waits for the answer, so that the next
 * owner need not wait until the lease expires.
 */
void
cqrs_redis_drop_lease(CqrsConnection *connection, bool wait)
{
	bool		has_queue = connection->consumer.queue_lease != NULL;
	const char *words[] = {
		"EVAL", CQRS_SCRIPT_DROP_LEASES, has_queue ? "2" : "1",
		connection->owner.lease,
		has_queue ? connection->consumer.queue_lease : connection->owner.token,
		connection->owner.token
	};
	CqrsFailure ignored;

	if (connection->owner.token == NULL || connection->started ||
		connection->command.len > 0)
		return;
	put_command(connection, has_queue ? 6 : 5, words);
	if (cqrs_redis_flush(connection, true) && wait)
		(void) await(connection, "could not give up the lease",
					 cqrs_socket_deadline(CLOSE_TIMEOUT_MS), &ignored);
}

bool
cqrs_redis_read_mark(CqrsConnection *connection, const char *name, char *text,
					 Size size, CqrsFailure *failure)
{
	const char *words[] = {"GET", psprintf("%s%s", MARK_PREFIX, name)};
	const CqrsReply *reply = cqrs_redis_command(connection, "could not read the mark",
												failure, lengthof(words),
												words);

	if (reply == NULL)
		return false;
	text[0] = '\0';
	if (reply->type == CQRS_REPLY_NIL)
		return true;
	if (!is_expected(reply, CQRS_REPLY_TEXT, "could not read the mark", failure))
		return false;
	if (strlcpy(text, reply->text, size) < size)
		return true;
	cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
					 "could not read the mark: unexpected answer of the broker: text that is no mark");
	return false;
}

bool
cqrs_redis_write_mark(CqrsConnection *connection, const char *name,
					  const char *text, CqrsFailure *failure)
{
	const char *words[] = {
		"SET", psprintf("%s%s", MARK_PREFIX, name), text
	};

	return cqrs_redis_command(connection, "could not write the mark", failure,
							  lengthof(words), words) != NULL;
}

const CqrsReply *
cqrs_redis_command(CqrsConnection *connection, const char *action,
				   CqrsFailure *failure, int nwords, const char *const *words)
{
	const CqrsReply *reply = cqrs_redis_try(connection, action, failure, nwords,
											words);
	char		error[256];

	if (reply == NULL || reply->type != CQRS_REPLY_ERROR)
		return reply;
	cqrs_failure_quote(error, sizeof(error), reply->text, reply->length);
	cqrs_redis_fail(failure, connection->owner.token != NULL, action, error);
	return NULL;
}

const CqrsReply *
cqrs_redis_try(CqrsConnection *connection, const char *action,
			   CqrsFailure *failure, int nwords, const char *const *words)
{
	int64		deadline = cqrs_socket_deadline(connection->timeout_ms);

	if (!settle(connection, action, deadline, failure))
		return NULL;
	put_command(connection, nwords, words);
	return await(connection, action, deadline, failure);
}

static void
put_command(CqrsConnection *connection, int nwords, const char *const *words)
{
	cqrs_redis_begin_command(connection, nwords);
	for (int i = 0; i < nwords; i++)
		cqrs_redis_put_word(connection, words[i], strlen(words[i]));
}

void
cqrs_redis_begin_command(CqrsConnection *connection, int nwords)
{
	Assert(connection->command.len == 0);
	appendStringInfo(&connection->command, "*%d\r\n", nwords);
}

void
cqrs_redis_put_word(CqrsConnection *connection, const char *word, Size length)
{
	appendStringInfo(&connection->command, "$%zu\r\n", length);
	appendBinaryStringInfo(&connection->command, word, length);
	appendStringInfoString(&connection->command, "\r\n");
}

void
cqrs_redis_too_early(const CqrsReply *reply, const char *action,
					 CqrsFailure *failure)
{
	char		error[256];

	if (reply->type == CQRS_REPLY_ERROR)
	{
		cqrs_failure_quote(error, sizeof(error), reply->text, reply->length);
		cqrs_redis_fail(failure, false, action, error);
	}
	else
		cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
						 "%s: protocol violation by the broker: reply to a command that was not sent",
						 action);
}

/*
 * Wait until a question, which may be on its way, is answered.  After that
 * nothing is unsent, so the command's buffer does not grow from one command to
 * the next, whatever the server replies.
 */
static bool
settle(CqrsConnection *connection, const char *action, int64 deadline,
	   CqrsFailure *failure)
{
	while (connection->command.len > 0 || cqrs_redis_asks(connection))
	{
		CqrsReply  *reply;

		if (!step(connection, action, deadline, &reply, failure))
			return false;
		if (reply != NULL)
		{
			cqrs_redis_too_early(reply, action, failure);
			return false;
		}
	}
	return true;
}

/* Wait for the reply to the command. */
static const CqrsReply *
await(CqrsConnection *connection, const char *action, int64 deadline,
	  CqrsFailure *failure)
{
	CqrsReply  *reply = NULL;

	while (reply == NULL)
	{
		if (!step(connection, action, deadline, &reply, failure))
			return NULL;
	}
	if (connection->command.len == 0)
		return reply;
	cqrs_redis_too_early(reply, action, failure);
	return NULL;
}

/*
 * Send and read, or wait for the socket.  Sets *reply to a reply, or to NULL if
 * there is none.  Replies to batches and answers, which come before the reply
 * to the command, are noted for poll().
 */
static bool
step(CqrsConnection *connection, const char *action, int64 deadline,
	 CqrsReply **reply, CqrsFailure *failure)
{
	CqrsReply  *received;
	int			result = -1;

	*reply = NULL;
	if (!cqrs_socket_may_go_on(deadline))
	{
		cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
						 "%s: no answer in time", action);
		return false;
	}
	if (cqrs_redis_flush(connection, true))
		result = cqrs_redis_reply_read(connection->reader, &received);
	if (result < 0)
	{
		cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
						 "%s: %s", action,
						 cqrs_redis_reply_error(connection->reader));
		return false;
	}
	if (result == 0)
	{
		(void) cqrs_socket_wait(connection->sock,
								connection->started ||
								connection->command.len > 0, deadline);
		return true;
	}
	if (cqrs_redis_asks(connection))
		return cqrs_redis_handle_answer(connection, received, failure);
	if (cqrs_redis_awaits(connection))
		return cqrs_redis_handle_reply(connection, received, failure);
	*reply = received;
	return true;
}
