/*-------------------------------------------------------------------------
 *
 * failure.c
 *	  Why a connection to a broker has failed, as text.
 *
 * Nothing here raises an error or allocates.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "broker/failure.h"

void
cqrs_failure_set(CqrsFailure *failure, CqrsBlame blame, const char *format,...)
{
	va_list		args;

	failure->blame = blame;
	va_start(args, format);
	(void) vsnprintf(failure->reason, sizeof(failure->reason), format, args);
	va_end(args);
	/* A text that was too long may be cut in the middle of a character. */
	failure->reason[pg_mbcliplen(failure->reason, strlen(failure->reason),
								 sizeof(failure->reason) - 1)] = '\0';
}

/*
 * Texts are UTF-8, and RabbitMQ may cut a long text in the middle of a
 * character.  Invalid bytes and control characters become question marks.  If
 * the database has another encoding, all characters beyond ASCII do, too: a
 * conversion would need a transaction.
 */
void
cqrs_failure_clean(char *buffer, Size size, const char *text, Size length)
{
	const char *from = text;
	const char *end = from + length;
	char	   *to = buffer;
	bool		keeps_utf8 = GetDatabaseEncoding() == PG_UTF8 ||
	GetDatabaseEncoding() == PG_SQL_ASCII;

	while (from < end)
	{
		int			bytes = pg_encoding_mblen(PG_UTF8, from);
		bool		valid = bytes <= end - from &&
		pg_utf8_islegal((const unsigned char *) from, bytes);
		bool		kept = valid &&
		(bytes > 1 ? keeps_utf8 :
		 (unsigned char) *from >= ' ' && *from != '\x7f');
		int			written = kept ? bytes : 1;

		if (to + written >= buffer + size)
			break;
		if (kept)
			memcpy(to, from, bytes);
		else
			*to = '?';
		to += written;
		from += valid ? bytes : 1;
	}
	*to = '\0';
}
