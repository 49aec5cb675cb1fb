/*-------------------------------------------------------------------------
 *
 * iso_time.c
 *	  Points in time as messages have them.
 *
 * PostgreSQL's input of timestamps raises errors, depends on settings, and
 * takes five times as long.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "apply/iso_time.h"

typedef struct Reader
{
	const char *pos;
	const char *end;
} Reader;

static bool read_number(Reader *reader, int ndigits, int most, int *number);
static bool read_char(Reader *reader, const char *chars, char *found);
static bool read_fraction(Reader *reader, int *usecs);
static bool read_offset(Reader *reader, int *seconds);

bool
cqrs_iso_time_read(const char *text, int length, TimestampTz *result)
{
	Reader		reader = {text, text + length};
	int			year;
	int			month;
	int			day;
	int			hour;
	int			minute;
	int			second = 0;
	int			usecs = 0;
	int			offset;
	char		found;

	if (!read_number(&reader, 4, 9999, &year) ||
		!read_char(&reader, "-", &found) ||
		!read_number(&reader, 2, 12, &month) ||
		!read_char(&reader, "-", &found) ||
		!read_number(&reader, 2, 31, &day) ||
		!read_char(&reader, "T ", &found) ||
		!read_number(&reader, 2, 23, &hour) ||
		!read_char(&reader, ":", &found) ||
		!read_number(&reader, 2, 59, &minute))
		return false;
	if (read_char(&reader, ":", &found) &&
		(!read_number(&reader, 2, 59, &second) ||
		 !read_fraction(&reader, &usecs)))
		return false;
	if (!read_offset(&reader, &offset) || reader.pos != reader.end ||
		year == 0 || month == 0 || day == 0 ||
		day > day_tab[isleap(year)][month - 1])
		return false;

	*result = (date2j(year, month, day) - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY +
		((hour * MINS_PER_HOUR + minute) * SECS_PER_MINUTE + second - offset) *
		USECS_PER_SEC + usecs;
	return true;
}

/* A number of "ndigits" digits that is not above "most". */
static bool
read_number(Reader *reader, int ndigits, int most, int *number)
{
	*number = 0;
	if (reader->end - reader->pos < ndigits)
		return false;
	for (int i = 0; i < ndigits; i++)
	{
		char		digit = *reader->pos++;

		if (digit < '0' || digit > '9')
			return false;
		*number = *number * 10 + digit - '0';
	}
	return *number <= most;
}

/* One of some characters, if it is the next one. */
static bool
read_char(Reader *reader, const char *chars, char *found)
{
	if (reader->pos == reader->end || *reader->pos == '\0' ||
		strchr(chars, *reader->pos) == NULL)
		return false;
	*found = *reader->pos++;
	return true;
}

/* A fraction of a second, if there is one, rounded to microseconds. */
static bool
read_fraction(Reader *reader, int *usecs)
{
	char		found;
	int			ndigits = 0;

	*usecs = 0;
	if (!read_char(reader, ".", &found))
		return true;
	for (; reader->pos < reader->end && *reader->pos >= '0' &&
		 *reader->pos <= '9'; reader->pos++)
	{
		if (++ndigits <= 6)
			*usecs = *usecs * 10 + *reader->pos - '0';
		else if (ndigits == 7 && *reader->pos >= '5')
			(*usecs)++;
	}
	for (int i = ndigits; i < 6; i++)
		*usecs *= 10;
	return ndigits > 0;
}

/*
 * The offset at the end: seconds east of UTC, 0 if there is none.  Returns
 * false if it is malformed.
 */
static bool
read_offset(Reader *reader, int *seconds)
{
	char		sign;
	char		found;
	int			hours;
	int			minutes = 0;

	*seconds = 0;
	if (reader->pos == reader->end || read_char(reader, "Zz", &found))
		return true;
	if (!read_char(reader, "+-", &sign) ||
		!read_number(reader, 2, 15, &hours))
		return false;
	if (reader->pos != reader->end)
	{
		(void) read_char(reader, ":", &found);
		if (!read_number(reader, 2, 59, &minutes))
			return false;
	}
	*seconds = (hours * MINS_PER_HOUR + minutes) * SECS_PER_MINUTE;
	if (sign == '-')
		*seconds = -*seconds;
	return true;
}
