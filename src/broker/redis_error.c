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

#include "broker/redis.h"

/* Codes of errors that pass: the server does not take writes at present. */
static const char *const passing[] = {
	"OOM", "NOREPLICAS", "MISCONF", "BUSY"
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

static bool
has_code(const char *error, const char *code)
{
	Size		length = strlen(code);

	return strncmp(error, code, length) == 0 &&
		(error[length] == ' ' || error[length] == '\0');
}
