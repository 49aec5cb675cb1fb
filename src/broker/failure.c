/*-------------------------------------------------------------------------
 *
 * failure.c
 *	  Why a connection to a broker has failed, as text.
 *
 * A broker knows the password, and may quote it: RabbitMQ and Redis name what
 * they refuse.  So whatever is kept of the words of a broker comes through
 * cqrs_failure_quote().  A broker that gives the password away in another
 * form cannot be stopped.
 *
 * Nothing here raises an error or allocates.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "mb/pg_wchar.h"

#include "broker/failure.h"

/* The longest part of a password that is looked for. */
#define SECRET_BYTES	1024
/* The shortest password that is hidden within words, too. */
#define SHORTEST_PART	4

/* Passwords of this process's connections, the last one first; "": none. */
static char secrets[2][SECRET_BYTES];

static void copy(char *buffer, Size size, const char *text, Size length,
				 bool hides);
static Size secret_at(const char *text, const char *at, const char *end);
static bool is_of_word(char c);

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

void
cqrs_failure_clean(char *buffer, Size size, const char *text, Size length)
{
	copy(buffer, size, text, length, false);
}

void
cqrs_failure_quote(char *buffer, Size size, const char *text, Size length)
{
	copy(buffer, size, text, length, true);
}

void
cqrs_failure_hide(const char *user, const char *password)
{
	if (password == NULL || password[0] == '\0' ||
		(user != NULL && strcmp(user, password) == 0) ||
		strncmp(password, secrets[0], SECRET_BYTES - 1) == 0)
		return;
	memcpy(secrets[1], secrets[0], SECRET_BYTES);
	memset(secrets[0], 0, SECRET_BYTES);
	strlcpy(secrets[0], password, SECRET_BYTES);
}

/*
 * Texts are UTF-8, and RabbitMQ may cut a long text in the middle of a
 * character.  Invalid bytes and control characters become question marks.  If
 * the database has another encoding, all characters beyond ASCII do, too: a
 * conversion would need a transaction.
 *
 * Secrets are looked for in the text as it came, before it is cut to the size
 * of the buffer.
 */
static void
copy(char *buffer, Size size, const char *text, Size length, bool hides)
{
	const char *from = text;
	const char *end = from + length;
	char	   *to = buffer;
	bool		keeps_utf8 = GetDatabaseEncoding() == PG_UTF8 ||
	GetDatabaseEncoding() == PG_SQL_ASCII;

	while (from < end)
	{
		Size		secret = hides ? secret_at(text, from, end) : 0;
		int			bytes = pg_encoding_mblen(PG_UTF8, from);
		bool		valid = bytes <= end - from &&
		pg_utf8_islegal((const unsigned char *) from, bytes);
		bool		kept = valid &&
		(bytes > 1 ? keeps_utf8 :
		 (unsigned char) *from >= ' ' && *from != '\x7f');
		int			written = kept ? bytes : 1;

		if (secret > 0)
		{
			for (int i = 0; i < 3 && to + 1 < buffer + size; i++)
				*to++ = '*';
			from += secret;
			continue;
		}
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

/*
 * The length of the secret that begins at "at"; 0: none does.  A very short
 * secret is part of many words, where asterisks would give it away.
 */
static Size
secret_at(const char *text, const char *at, const char *end)
{
	Size		longest = 0;

	for (int i = 0; i < lengthof(secrets); i++)
	{
		Size		length = strlen(secrets[i]);

		if (length <= longest || length > end - at ||
			memcmp(at, secrets[i], length) != 0)
			continue;
		if (length >= SHORTEST_PART ||
			((at == text || !is_of_word(at[-1])) &&
			 (at + length == end || !is_of_word(at[length]))))
			longest = length;
	}
	return longest;
}

static bool
is_of_word(char c)
{
	return IS_HIGHBIT_SET(c) || isalnum((unsigned char) c) || c == '_';
}
