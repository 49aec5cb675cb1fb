/*-------------------------------------------------------------------------
 *
 * server.c
 *	  What unit tests of window.c and hold.c have in the place of a server.
 *
 * Memory is malloc's, and time is what the test says.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "outbox/message.h"
#include "server.h"

MemoryContext TopMemoryContext;
MemoryContext CurrentMemoryContext;
int			cqrs_confirm_window = 6;
int			cqrs_confirm_window_kb = 1024;
int			cqrs_reconnect_delay_ms = 100;
int			cqrs_reconnect_delay_max_ms = 1000;

TimestampTz unit_now = 1;
const char *unit_case = NULL;

void
unit_failed(const char *file, int line, const char *condition)
{
	fprintf(stderr, "%s:%d: not true: %s; %s\n", file, line, condition,
			unit_case != NULL ? unit_case : "");
	exit(1);
}

TimestampTz
GetCurrentTimestamp(void)
{
	return unit_now;
}

long
TimestampDifferenceMilliseconds(TimestampTz start, TimestampTz stop)
{
	return start >= stop ? 0 : (stop - start + 999) / 1000;
}

void
cqrs_message_expires(char *buffer, TimestampTz when)
{
	buffer[0] = '\0';
}

void *
palloc(Size size)
{
	return malloc(size);
}

void *
palloc0(Size size)
{
	return calloc(1, size);
}

void *
MemoryContextAlloc(MemoryContext context, Size size)
{
	return malloc(size);
}

void *
MemoryContextAllocZero(MemoryContext context, Size size)
{
	return calloc(1, size);
}

void *
MemoryContextAllocExtended(MemoryContext context, Size size, int flags)
{
	return calloc(1, size);
}

List *
lappend(List *list, void *datum)
{
	if (list == NIL)
	{
		list = calloc(1, sizeof(List));
		list->type = T_List;
	}
	list->elements = realloc(list->elements,
							 (list->length + 1) * sizeof(ListCell));
	list->elements[list->length++].ptr_value = datum;
	return list;
}

List *
list_copy(const List *list)
{
	List	   *copy = NIL;
	ListCell   *lc;

	foreach(lc, list)
		copy = lappend(copy, lfirst(lc));
	return copy;
}

List *
list_delete_nth_cell(List *list, int n)
{
	list->length--;
	memmove(&list->elements[n], &list->elements[n + 1],
			(list->length - n) * sizeof(ListCell));
	if (list->length > 0)
		return list;
	list_free(list);
	return NIL;
}

List *
list_delete_cell(List *list, ListCell *cell)
{
	return list_delete_nth_cell(list, cell - list->elements);
}

List *
list_delete_ptr(List *list, void *datum)
{
	ListCell   *lc;

	foreach(lc, list)
	{
		if (lfirst(lc) == datum)
			return list_delete_cell(list, lc);
	}
	return list;
}

void
list_free(List *list)
{
	if (list != NIL)
		free(list->elements);
	free(list);
}

char *
MemoryContextStrdup(MemoryContext context, const char *string)
{
	return strdup(string);
}

void
pfree(void *pointer)
{
	free(pointer);
}

void
assertion_failed(const char *condition)
{
	unit_failed("assertion", 0, condition);
}

/* simplehash may report that its table is too large. */
bool
errstart_cold(int level, const char *domain)
{
	abort();
}

int
errmsg_internal(const char *format,...)
{
	abort();
}

void
errfinish(const char *file, int line, const char *function)
{
	abort();
}
