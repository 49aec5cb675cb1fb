/*-------------------------------------------------------------------------
 *
 * option.h
 *	  Typed options, as users give them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_OPTION_H
#define CQRS_OPTION_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/jsonb.h"

#include "base/compat.h"

/*
 * The types of options, the SQL types of their values, and after the arrow the
 * C types of fields that get them.
 */
typedef enum CqrsOptionType
{
	CQRS_TYPE_NAMES,			/* text[] of columns; no field */
	CQRS_TYPE_OBJECT,			/* jsonb; no field */
	CQRS_TYPE_FUNCTION,			/* regproc, kept as its qualified name, text
								 * -> char *, NULL for null */
	CQRS_TYPE_TEXT,				/* text -> char *, NULL for null */
	CQRS_TYPE_CHOICE,			/* text, one of some; the first by default ->
								 * an enum of them, or bool: not the first */
	CQRS_TYPE_BOOL,				/* boolean -> bool */
	CQRS_TYPE_SECONDS,			/* integer -> int, -1 for null */
	CQRS_TYPE_COUNT,			/* integer; null: no limit -> the same */
	CQRS_TYPE_INTERVAL			/* interval, from 1 ms to 30 days -> int64,
								 * milliseconds */
} CqrsOptionType;

typedef struct CqrsOptionInfo
{
	const char *name;
	CqrsOptionType type;
	bool		default_bool;	/* CQRS_TYPE_BOOL */
	const char *choices[3];		/* CQRS_TYPE_CHOICE */
	const char *default_text;	/* CQRS_TYPE_INTERVAL */
	const char *role;			/* CQRS_TYPE_FUNCTION: what the function is
								 * called in messages */
	Size		field;			/* offset in the struct that the value is for */
	Size		field_size;		/* 0: none */
	void		(*check) (const char *name, Datum value);	/* NULL: none; the value
															 * is not null */
} CqrsOptionInfo;

/* Members of CqrsOptionInfo, in lists of options. */
#define CQRS_CHOICES(...)	.choices = {__VA_ARGS__}
#define CQRS_FIELD(object, name) \
	.field = offsetof(object, name), \
	.field_size = sizeof(((object *) NULL)->name)

/* The options of one kind of object. */
typedef struct CqrsOptionTable
{
	const CqrsOptionInfo *infos;
	int			noptions;
	const char *where;			/* a sentence: what the options are */
	const char *example;		/* JSON */
} CqrsOptionTable;

/*
 * Set an option from an SQL argument; null gives the default.  Raises an error
 * for the user if the option cannot have that value.
 */
extern void cqrs_option_set(const CqrsOptionTable *table,
							NullableDatum *values, int option,
							NullableDatum argument);

/* Set all options that a JSON object names. */
extern void cqrs_option_set_json(const CqrsOptionTable *table,
								 NullableDatum *values, Jsonb *options);

/* Set the fields of a struct that the table names from the values of options. */
extern void cqrs_option_fill(const CqrsOptionTable *table,
							 const NullableDatum *values, void *object);

/* The error of a check: "problem" is a sentence about the value. */
pg_noreturn extern void cqrs_option_refuse(const char *name,
										   const char *problem);

/* The values of options as C types: NULL and NIL for null. */
extern char *cqrs_option_text(NullableDatum option);
extern List *cqrs_option_names(NullableDatum option);

/* A list of char * from a text[] without nulls, and back. */
extern List *cqrs_option_text_list(Datum array);
extern Datum cqrs_option_text_array(List *names);

#endif							/* CQRS_OPTION_H */
