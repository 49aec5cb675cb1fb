/*-------------------------------------------------------------------------
 *
 * json_text.h
 *	  JSON values of messages as the texts that input functions read.
 *
 * Results are palloc'd.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_JSON_TEXT_H
#define CQRS_JSON_TEXT_H

#include "postgres.h"

#include "apply/json_scan.h"

/* The text of JSON as it is. */
extern char *cqrs_json_text_verbatim(const CqrsJsonValue *json);

/*
 * The characters of a string, or the text of other JSON.  Raises an error for
 * characters that the database cannot have.
 */
extern char *cqrs_json_text_characters(const CqrsJsonValue *json);

/*
 * The value of a number of up to 18 characters without fraction and exponent.
 * Returns false for other JSON.
 */
extern bool cqrs_json_text_digits(const CqrsJsonValue *json, int64 *number);

/*
 * A number whose fraction is zero, as one without fraction and exponent; any
 * other text as it is.
 */
extern char *cqrs_json_text_whole(char *text);

/* An object as a literal of hstore. */
extern char *cqrs_json_text_hstore(const CqrsJsonValue *json);

#endif							/* CQRS_JSON_TEXT_H */
