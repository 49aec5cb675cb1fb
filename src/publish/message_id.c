/*-------------------------------------------------------------------------
 *
 * message_id.c
 *	  The id that a message has at the broker: IDENTITY-ID.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "publish/message_id.h"

char *
cqrs_message_id_make(const char *identity, int64 id)
{
	Size		length = strlen(identity);
	char	   *message_id = palloc(length + 1 + MAXINT8LEN + 1);

	memcpy(message_id, identity, length);
	message_id[length] = '-';
	pg_lltoa(id, message_id + length + 1);
	return message_id;
}

bool
cqrs_message_id_parse(const char *message_id, const char *identity, int64 *id)
{
	Size		length = strlen(identity);
	const char *digits = message_id + length + 1;
	char	   *end;

	if (strncmp(message_id, identity, length) != 0 || message_id[length] != '-' ||
		*digits < '0' || *digits > '9')
		return false;
	errno = 0;
	*id = strtoll(digits, &end, 10);
	return *end == '\0' && errno == 0;
}
