/*-------------------------------------------------------------------------
 *
 * password_file.c
 *	  Passwords of brokers, from a file.
 *
 * The file has the form of PostgreSQL's .pgpass, a line for each login:
 *
 *	  host:port:vhost:user:password
 *
 * The first four may be "*", which matches anything; a colon or backslash in a
 * part is written with a backslash before it.  Lines that are empty or begin
 * with "#" match nothing.  As libpq, a symbolic link is followed; what counts
 * is the file that was opened.
 *
 * The file is read into one piece of memory, which is overwritten before it is
 * freed.  What is too large is not read at all.  A file that others can read or
 * replace is refused, because its password is no secret, or not the owner's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mb/pg_wchar.h"
#include "storage/fd.h"

#include "base/password_file.h"

#define FILE_MAX_BYTES	(64 * 1024)
#define LINE_MAX_BYTES	2048

#define NOT_USED "the file of \"cqrs.password_file\" is not used, because "

static bool read_file(const char *path, char *content, const char **problem);
static bool check_file(int fd, const char **problem);
static ssize_t read_all(int fd, char *content);
static bool find_line(char *content, const CqrsUrl *url, char **password,
					  const char **problem);
static char *match_line(char *line, const CqrsUrl *url);
static char *match_field(char *line, const char *value);
static void remove_backslashes(char *text);

bool
cqrs_password_file_find(const char *path, const CqrsUrl *url, char **password,
						const char **problem)
{
	char	   *content = palloc(FILE_MAX_BYTES + 1);
	bool		usable = read_file(path, content, problem);

	*password = NULL;
	if (usable)
		usable = find_line(content, url, password, problem);
	explicit_bzero(content, FILE_MAX_BYTES + 1);
	pfree(content);
	return usable;
}

/* Read a file that may be used into "content", and end it with a zero. */
static bool
read_file(const char *path, char *content, const char **problem)
{
	/* O_NONBLOCK: a FIFO without a writer is opened at once, and refused. */
	int			fd = BasicOpenFile(path, O_RDONLY | O_NONBLOCK | O_NOCTTY |
								   O_CLOEXEC | PG_BINARY);
	ssize_t		nread = -1;
	bool		usable;

	if (fd < 0)
	{
		*problem = psprintf("could not open the file of \"cqrs.password_file\": %s",
							strerror(errno));
		return false;
	}
	usable = check_file(fd, problem);
	if (usable)
	{
		nread = read_all(fd, content);
		if (nread < 0)
			*problem = psprintf("could not read the file of \"cqrs.password_file\": %s",
								strerror(errno));
	}
	close(fd);
	if (nread < 0)
		return false;
	content[nread] = '\0';
	if (nread < FILE_MAX_BYTES && strlen(content) == nread)
		return true;
	*problem = nread < FILE_MAX_BYTES ? NOT_USED "it has a zero byte" :
		NOT_USED "it has 64 kB or more";
	return false;
}

/* Whether the kind, the owner, the mode and the size of a file are right. */
static bool
check_file(int fd, const char **problem)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		*problem = psprintf("could not stat the file of \"cqrs.password_file\": %s",
							strerror(errno));
	else if (!S_ISREG(st.st_mode))
		*problem = NOT_USED "it is not a regular file";
	else if (st.st_uid != geteuid())
		*problem = NOT_USED "it does not belong to the server's user";
	else if ((st.st_mode & (S_IRWXG | S_IRWXO)) != 0)
		*problem = NOT_USED "group or others have access to the file; permissions should be u=rw (0600) or less";
	else if (st.st_size >= FILE_MAX_BYTES)
		*problem = NOT_USED "it has 64 kB or more";
	else
		return true;
	return false;
}

/* Read up to FILE_MAX_BYTES; the file may have grown.  -1 on failure. */
static ssize_t
read_all(int fd, char *content)
{
	ssize_t		total = 0;

	while (total < FILE_MAX_BYTES)
	{
		ssize_t		nread = read(fd, content + total, FILE_MAX_BYTES - total);

		if (nread < 0 && errno == EINTR)
			continue;
		if (nread < 0)
			return -1;
		if (nread == 0)
			break;
		total += nread;
	}
	return total;
}

/* The password of the first line that matches.  Changes "content". */
static bool
find_line(char *content, const CqrsUrl *url, char **password,
		  const char **problem)
{
	char	   *next;
	int			number = 1;

	for (char *line = content; line != NULL; line = next, number++)
	{
		char	   *found;
		Size		length;

		next = strchr(line, '\n');
		if (next != NULL)
			*next++ = '\0';
		length = strlen(line);
		if (length > LINE_MAX_BYTES)
		{
			*problem = psprintf(NOT_USED "line %d is longer than 2048 bytes",
								number);
			return false;
		}
		if (length > 0 && line[length - 1] == '\r')
			line[length - 1] = '\0';
		found = match_line(line, url);
		if (found == NULL)
			continue;
		remove_backslashes(found);
		if (!pg_verify_mbstr(PG_UTF8, found, strlen(found), true))
		{
			*problem = psprintf(NOT_USED "the password of line %d is not valid UTF-8",
								number);
			return false;
		}
		*password = pstrdup(found);
		return true;
	}
	return true;
}

/* Where the password of a line begins if the line is for a URL; else NULL. */
static char *
match_line(char *line, const CqrsUrl *url)
{
	char		port[12];

	if (line[0] == '#')
		return NULL;
	snprintf(port, sizeof(port), "%d", url->port);
	line = match_field(line, url->host);
	if (line != NULL)
		line = match_field(line, port);
	if (line != NULL)
		line = match_field(line, url->path);
	return line != NULL ? match_field(line, url->user) : NULL;
}

/*
 * If the field at the beginning of "line" is "*" or a value, what follows its
 * colon; else NULL.
 */
static char *
match_field(char *line, const char *value)
{
	if (strncmp(line, "*:", 2) == 0)
		return line + 2;
	for (; *line != ':' || *value != '\0'; line++, value++)
	{
		if (*line == '\\')
			line++;
		if (*value == '\0' || *line != *value)
			return NULL;
	}
	return line + 1;
}

/* In place: each backslash goes, and what it quotes stays. */
static void
remove_backslashes(char *text)
{
	char	   *out = text;

	for (; *text != '\0'; text++)
	{
		if (*text == '\\' && text[1] != '\0')
			text++;
		*out++ = *text;
	}
	*out = '\0';
}
