/*-------------------------------------------------------------------------
 *
 * server.c
 *	  What unit tests need of a server: memory, lists, errors, the time.
 *
 * The linker takes from here, and from the tests, what files of src/ would
 * find in a server.  Memory contexts are not kept apart: what is allocated lasts
 * until it is freed, or the schedule ends.  An error is raised as in the server, with its SQLSTATE; a test
 * catches it with PG_TRY().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "common/pg_prng.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "server.h"

MemoryContext TopMemoryContext;
MemoryContext CurrentMemoryContext;
sigjmp_buf *PG_exception_stack;
ErrorContextCallback *error_context_stack;

uint64		seed;
TimestampTz now_us;
void		(*on_free) (const char *memory, Size size);

/* A piece of memory, before its bytes. */
typedef struct Piece
{
	struct Piece *previous;
	struct Piece *next;
	Size		size;
	Size		padding;		/* what follows is aligned */
} Piece;

static Piece *pieces;
static pg_prng_state prng;
static int	error_level;
static int	error_code;

void
failed(const char *file, int line, const char *condition)
{
	fprintf(stderr, "%s:%d: not true: %s; seed " UINT64_FORMAT "\n", file,
			line, condition, seed);
	exit(1);
}

int
any(int count)
{
	return pg_prng_uint64(&prng) % count;
}

int
run_schedules(int argc, char **argv, void (*run) (void), const char *what)
{
	time_t		end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 1);
	long		runs = 0;

	seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64) time(NULL) << 20;
	do
	{
		pg_prng_seed(&prng, seed);
		pg_prng_seed(&pg_global_prng_state, seed);
		now_us = 1;
		run();
		free_all();
		runs++;
		seed++;
	} while (time(NULL) < end);
	printf("%ld %s\n", runs, what);
	return 0;
}

/* Linked as ExceptionalCondition, whose other arguments differ by version. */
extern void assertion_failed(const char *condition);

void
assertion_failed(const char *condition)
{
	failed("Assert", 0, condition);
}

/* ---- Time */

TimestampTz
GetCurrentTimestamp(void)
{
	return now_us;
}

long
TimestampDifferenceMilliseconds(TimestampTz start, TimestampTz stop)
{
	return start >= stop ? 0 : (stop - start + 999) / 1000;
}

/* ---- Errors */

bool
errstart(int level, const char *domain)
{
	error_level = level;
	error_code = 0;
	return level >= ERROR;
}

bool
errstart_cold(int level, const char *domain)
{
	return errstart(level, domain);
}

int
errcode(int sqlerrcode)
{
	return error_code = sqlerrcode;
}

int
geterrcode(void)
{
	return error_code;
}

int
errmsg(const char *format,...)
{
	return 0;
}

int
errmsg_internal(const char *format,...)
{
	return 0;
}

int
errdetail(const char *format,...)
{
	return 0;
}

int
errhint(const char *format,...)
{
	return 0;
}

void
errfinish(const char *file, int line, const char *function)
{
	if (PG_exception_stack == NULL)
		failed(file, line, "no error is expected here");
	siglongjmp(*PG_exception_stack, 1);
}

void
pg_re_throw(void)
{
	failed("PG_RE_THROW", 0, "an error is not rethrown");
}

/* ---- Memory */

void
free_all(void)
{
	while (pieces != NULL)
	{
		Piece	   *next = pieces->next;

		free(pieces);
		pieces = next;
	}
}

static void *
add_piece(Piece *piece, Size size)
{
	piece->size = size;
	piece->previous = NULL;
	piece->next = pieces;
	if (pieces != NULL)
		pieces->previous = piece;
	pieces = piece;
	return piece + 1;
}

void *
palloc(Size size)
{
	return add_piece(malloc(sizeof(Piece) + size), size);
}

void *
palloc0(Size size)
{
	return add_piece(calloc(1, sizeof(Piece) + size), size);
}

void
pfree(void *pointer)
{
	Piece	   *piece = (Piece *) pointer - 1;

	if (on_free != NULL)
		on_free(pointer, piece->size);
	if (piece->next != NULL)
		piece->next->previous = piece->previous;
	if (piece->previous != NULL)
		piece->previous->next = piece->next;
	else
		pieces = piece->next;
	free(piece);
}

void *
repalloc(void *pointer, Size size)
{
	void	   *moved = palloc(size);

	memcpy(moved, pointer, Min(size, ((Piece *) pointer - 1)->size));
	pfree(pointer);
	return moved;
}

char *
pstrdup(const char *string)
{
	Size		size = strlen(string) + 1;

	return memcpy(palloc(size), string, size);
}

void *
MemoryContextAlloc(MemoryContext context, Size size)
{
	return palloc(size);
}

void *
MemoryContextAllocZero(MemoryContext context, Size size)
{
	return palloc0(size);
}

void *
MemoryContextAllocExtended(MemoryContext context, Size size, int flags)
{
	return palloc0(size);
}

char *
MemoryContextStrdup(MemoryContext context, const char *string)
{
	return pstrdup(string);
}

/* ---- Lists */

List *
lappend(List *list, void *datum)
{
	if (list == NIL)
	{
		list = palloc0(sizeof(List));
		list->type = T_List;
	}
	list->elements = list->length == 0 ? palloc(sizeof(ListCell)) :
		repalloc(list->elements, (list->length + 1) * sizeof(ListCell));
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
	if (list == NIL)
		return;
	pfree(list->elements);
	pfree(list);
}

void
list_free_deep(List *list)
{
	ListCell   *lc;

	foreach(lc, list)
		pfree(lfirst(lc));
	list_free(list);
}
