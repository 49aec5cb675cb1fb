/*-------------------------------------------------------------------------
 *
 * json_scan.h
 *	  The members of a JSON object, found in its text.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_JSON_SCAN_H
#define CQRS_JSON_SCAN_H

#include "postgres.h"

typedef enum CqrsJsonKind
{
	CQRS_JSON_NULL,
	CQRS_JSON_TRUE,
	CQRS_JSON_FALSE,
	CQRS_JSON_NUMBER,
	CQRS_JSON_STRING,
	CQRS_JSON_ARRAY,
	CQRS_JSON_OBJECT
} CqrsJsonKind;

/* A value: where it stands in the text.  A string has its quotes. */
typedef struct CqrsJsonValue
{
	CqrsJsonKind kind;
	bool		escaped;		/* a string with escapes */
	const char *start;
	int			length;
} CqrsJsonValue;

typedef struct CqrsJsonMember
{
	CqrsJsonValue key;
	CqrsJsonValue value;
} CqrsJsonMember;

/* An object, or an array, whose members have no keys. */
typedef struct CqrsJsonMembers
{
	const char *start;			/* of the text of the object */
	int			nmembers;
	int			allocated;
	CqrsJsonMember *members;	/* in their order; keys may repeat */
} CqrsJsonMembers;

/* How deep objects and arrays may be nested. */
#define CQRS_JSON_MAX_DEPTH 5000

/*
 * How many members an object may have.  They take ten times the memory of the
 * shortest text.
 */
#define CQRS_JSON_MAX_MEMBERS 1000000

/*
 * Find the members of the JSON object that is the whole of a text in the
 * encoding of the database.  If one of them is an object and has the key
 * "inner_key" (NULL: none), written without escapes, its members are found on
 * the way; inner->start says whose they are.
 *
 * Returns NULL, or what is wrong: a sentence.  The words NaN, Infinity and
 * -Infinity in nested objects and arrays, which are no JSON but written by
 * Python, are taken for numbers; *bare says whether there are any.  Allocates
 * in the current context and raises no error but for lack of memory.
 */
extern char *cqrs_json_scan_object(const char *text, int length,
								   CqrsJsonMembers *object,
								   const char *inner_key,
								   CqrsJsonMembers *inner, bool *bare);

/* Find the elements of an array in a text that is known to be JSON. */
extern void cqrs_json_scan_array(const CqrsJsonValue *array,
								 CqrsJsonMembers *elements);

/* A copy of JSON in which the words NaN and Infinity are strings. */
extern char *cqrs_json_scan_quote_bare(const char *text, int length,
									   int *result_length);

/* The last member with a key, or NULL. */
extern const CqrsJsonValue *cqrs_json_scan_find(const CqrsJsonMembers *object,
												const char *key);

/* Whether a key, a string of JSON, is that of "length" bytes. */
extern bool cqrs_json_scan_is_key(const CqrsJsonValue *json, const char *key,
								  int length);

/*
 * The characters of a string.  Returns NULL if it has some that the database
 * cannot store, and then *problem is a sentence about that.
 */
extern char *cqrs_json_scan_string(const CqrsJsonValue *string,
								   const char **problem);

#endif							/* CQRS_JSON_SCAN_H */
