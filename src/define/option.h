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

/* The types of options, and the SQL types of their values. */
typedef enum CqrsOptionType
{
	CQRS_TYPE_NAMES,			/* text[] of columns */
	CQRS_TYPE_OBJECT,			/* jsonb */
	CQRS_TYPE_FUNCTION,			/* regproc, kept as its qualified name: text */
	CQRS_TYPE_TEXT,
	CQRS_TYPE_CHOICE,			/* text, one of some; the first by default */
	CQRS_TYPE_BOOL,
	CQRS_TYPE_SECONDS,			/* integer */
	CQRS_TYPE_COUNT,			/* integer; null: no limit */
	CQRS_TYPE_INTERVAL			/* interval, from 1 ms to 30 days */
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
	void		(*check) (const char *name, Datum value);	/* NULL: none; the value
															 * is not null */
} CqrsOptionInfo;

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

/* The error of a check: "problem" is a sentence about the value. */
pg_noreturn extern void cqrs_option_refuse(const char *name,
										   const char *problem);

/* The milliseconds of an option of type CQRS_TYPE_INTERVAL. */
extern int64 cqrs_option_ms(Datum interval);

/* The values of options as C types: NULL, NIL and -1 for null. */
extern char *cqrs_option_text(NullableDatum option);
extern List *cqrs_option_names(NullableDatum option);
extern int	cqrs_option_int(NullableDatum option);

/* A list of char * from a text[] without nulls, and back. */
extern List *cqrs_option_text_list(Datum array);
extern Datum cqrs_option_text_array(List *names);

#endif							/* CQRS_OPTION_H */
