/*-------------------------------------------------------------------------
 *
 * redis_error.c
 *	  What follows from the errors of a Redis server.
 *
 * An error begins with a code, which is all that is reliable, but for the
 * general code ERR.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "broker/failure.h"
#include "broker/redis.h"

/* Codes of errors that pass: the server does not take writes at present. */
static const char *const passing[] = {
	"OOM", "NOREPLICAS", "MISCONF", "BUSY"
};

/* Codes of errors that only a cluster has. */
static const char *const cluster[] = {
	"MOVED", "ASK", "CROSSSLOT", "CLUSTERDOWN", "TRYAGAIN"
};

static bool has_code(const char *error, const char *code);

CqrsRedisRemedy
cqrs_redis_remedy(const char *error)
{
	if (has_code(error, "NOSCRIPT"))
		return CQRS_REMEDY_TEXT;
	for (int i = 0; i < lengthof(passing); i++)
	{
		if (has_code(error, passing[i]))
			return CQRS_REMEDY_WAIT;
	}
	return CQRS_REMEDY_NONE;
}

/*
 * A user without permission for a key gets different texts from Redis 6, 7
 * and 8.
 */
CqrsBlame
cqrs_redis_blame(const char *error, bool of_message)
{
	if (has_code(error, "LEASE"))
		return CQRS_BLAME_LEASE;
	if (strstr(error, "Protocol error: invalid bulk length") != NULL)
		return CQRS_BLAME_MESSAGE;
	if (of_message &&
		(has_code(error, "WRONGTYPE") || has_code(error, "NOPERM") ||
		 strstr(error, "can't access") != NULL ||
		 strstr(error, "ACL failure") != NULL))
		return CQRS_BLAME_ROUTE;
	return CQRS_BLAME_TRANSPORT;
}

void
cqrs_redis_fail(CqrsFailure *failure, bool of_message, const char *action,
				const char *error)
{
	bool		is_cluster = strstr(error, "cluster") != NULL;

	for (int i = 0; i < lengthof(cluster); i++)
		is_cluster = is_cluster || has_code(error, cluster[i]);
	cqrs_failure_set(failure, cqrs_redis_blame(error, of_message),
					 is_cluster ?
					 "%s: the broker is a Redis Cluster, which is not supported: %s" :
					 "%s: %s", action, error);
}

/* Whether an error begins with that word. */
static bool
has_code(const char *error, const char *code)
{
	Size		length = strlen(code);

	return strncmp(error, code, length) == 0 &&
		(error[length] == ' ' || error[length] == '\0');
}
