/*-------------------------------------------------------------------------
 *
 * json_scan.c
 *	  The members of a JSON object, found in its text.
 *
 * PostgreSQL's lexer finds the tokens; the grammar is here.  PostgreSQL's
 * parser has both, but raises an error where the stack ends, calls back for
 * each token, and copies each of them.  Messages are hostile, so nesting is
 * bounded and takes no stack, and the members of an object are bounded; and
 * messages are many, so nothing is copied.
 *
 * The escapes of a string are decoded only when its characters are wanted:
 * most strings have none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "common/jsonapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "apply/json_scan.h"
#include "base/compat.h"

typedef struct Scanner
{
	JsonLexContext *lex;
	bool		bare;			/* words that are no JSON were accepted */
	int			depth;
	/* Whether each nested value is an object: a bit for each depth. */
	uint8		objects[CQRS_JSON_MAX_DEPTH / 8 + 1];
} Scanner;

static bool next(Scanner *scanner);
static bool is_bare_word(const char *start, int length);
static bool scan_members(Scanner *scanner, CqrsJsonMembers *members,
						 bool is_array, const char *inner_key,
						 CqrsJsonMembers *inner);
static bool scan_value(Scanner *scanner, CqrsJsonValue *value);
static bool scan_nested(Scanner *scanner, const char **end);
static bool open_nested(Scanner *scanner);
static bool scan_key(Scanner *scanner, CqrsJsonValue *key);
static bool take(Scanner *scanner, JsonTokenType type);
static CqrsJsonMember *add_member(CqrsJsonMembers *members);
static bool unescape(StringInfo buf, const char **pos, const char *end,
					 const char **problem);
static bool append_code(StringInfo buf, pg_wchar code, const char **problem);

char *
cqrs_json_scan_object(const char *text, int length, CqrsJsonMembers *object,
					  const char *inner_key, CqrsJsonMembers *inner,
					  bool *bare)
{
	Scanner		scanner;

	scanner.lex = cqrs_make_json_lex(text, length);
	scanner.bare = false;
	scanner.depth = 0;
	if (!next(&scanner) ||
		scanner.lex->token_type != JSON_TOKEN_OBJECT_START)
		return pstrdup("The text is not a JSON object.");
	if (scan_members(&scanner, object, false, inner_key, inner) &&
		scanner.lex->token_type == JSON_TOKEN_END)
	{
		*bare = scanner.bare;
		return NULL;
	}
	if (object->nmembers > CQRS_JSON_MAX_MEMBERS ||
		(inner != NULL && inner->nmembers > CQRS_JSON_MAX_MEMBERS))
		return psprintf("The text has an object of more than %d members.",
						CQRS_JSON_MAX_MEMBERS);
	if (scanner.depth >= CQRS_JSON_MAX_DEPTH)
		return psprintf("The text has more than %d nested arrays and objects.",
						CQRS_JSON_MAX_DEPTH);
	if (scanner.lex->token_start == NULL)
		return pstrdup("The text is not valid JSON, it ends too early.");
	return psprintf("The text is not valid JSON at byte %d.",
					(int) (scanner.lex->token_start - text) + 1);
}

void
cqrs_json_scan_array(const CqrsJsonValue *array, CqrsJsonMembers *elements)
{
	Scanner		scanner;

	scanner.lex = cqrs_make_json_lex(array->start, array->length);
	scanner.bare = false;
	scanner.depth = 1;
	if (!next(&scanner) ||
		!scan_members(&scanner, elements, true, NULL, NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid JSON array")));
}

/* Go to the next token.  Returns false if there is none that is valid. */
static bool
next(Scanner *scanner)
{
	JsonLexContext *lex = scanner->lex;

	if (json_lex(lex) == JSON_SUCCESS)
		return true;
	if (lex->token_start != NULL && scanner->depth > 0 &&
		is_bare_word(lex->token_start,
					 lex->token_terminator - lex->token_start))
	{
		lex->token_type = JSON_TOKEN_NUMBER;
		scanner->bare = true;
		return true;
	}
	lex->token_type = JSON_TOKEN_INVALID;
	return false;
}

/* Whether a word is one of those that Python writes, and that are no JSON. */
static bool
is_bare_word(const char *start, int length)
{
	return (length == 3 && memcmp(start, "NaN", 3) == 0) ||
		(length == 8 && memcmp(start, "Infinity", 8) == 0) ||
		(length == 9 && memcmp(start, "-Infinity", 9) == 0);
}

/* The members of an object or an array, whose first token is the current. */
static bool
scan_members(Scanner *scanner, CqrsJsonMembers *members, bool is_array,
			 const char *inner_key, CqrsJsonMembers *inner)
{
	JsonLexContext *lex = scanner->lex;
	JsonTokenType end = is_array ? JSON_TOKEN_ARRAY_END : JSON_TOKEN_OBJECT_END;

	members->start = lex->token_start;
	members->nmembers = 0;
	if (!next(scanner))
		return false;
	if (lex->token_type == end)
		return next(scanner);
	for (;;)
	{
		CqrsJsonMember *member = add_member(members);

		if (!is_array && (members->nmembers > CQRS_JSON_MAX_MEMBERS ||
						  !scan_key(scanner, &member->key)))
			return false;
		if (inner_key != NULL && lex->token_type == JSON_TOKEN_OBJECT_START &&
			cqrs_json_scan_is_key(&member->key, inner_key, strlen(inner_key)))
		{
			member->value.kind = CQRS_JSON_OBJECT;
			member->value.escaped = false;
			member->value.start = lex->token_start;
			scanner->depth++;
			if (!scan_members(scanner, inner, false, NULL, NULL))
				return false;
			scanner->depth--;
			member->value.length = lex->prev_token_terminator -
				member->value.start;
		}
		else if (!scan_value(scanner, &member->value))
			return false;
		if (lex->token_type == end)
			return next(scanner);
		if (!take(scanner, JSON_TOKEN_COMMA))
			return false;
	}
}

/*
 * A new last member, which is not filled in.  Pointers to other members become
 * invalid.
 */
static CqrsJsonMember *
add_member(CqrsJsonMembers *members)
{
	if (members->nmembers == members->allocated)
	{
		members->allocated = Max(16, members->allocated * 2);
		members->members = members->members == NULL ?
			palloc(members->allocated * sizeof(CqrsJsonMember)) :
			repalloc(members->members,
					 members->allocated * sizeof(CqrsJsonMember));
	}
	return &members->members[members->nmembers++];
}

/* A value, which begins with the current token; and the token behind it. */
static bool
scan_value(Scanner *scanner, CqrsJsonValue *value)
{
	JsonLexContext *lex = scanner->lex;
	const char *end;

	value->start = lex->token_start;
	switch (lex->token_type)
	{
		case JSON_TOKEN_STRING:
			value->kind = CQRS_JSON_STRING;
			break;
		case JSON_TOKEN_NUMBER:
			value->kind = CQRS_JSON_NUMBER;
			break;
		case JSON_TOKEN_TRUE:
			value->kind = CQRS_JSON_TRUE;
			break;
		case JSON_TOKEN_FALSE:
			value->kind = CQRS_JSON_FALSE;
			break;
		case JSON_TOKEN_NULL:
			value->kind = CQRS_JSON_NULL;
			break;
		case JSON_TOKEN_OBJECT_START:
		case JSON_TOKEN_ARRAY_START:
			value->kind = lex->token_type == JSON_TOKEN_OBJECT_START ?
				CQRS_JSON_OBJECT : CQRS_JSON_ARRAY;
			if (!scan_nested(scanner, &end))
				return false;
			value->length = end - value->start;
			return true;
		default:
			return false;
	}
	value->length = lex->token_terminator - lex->token_start;
	value->escaped = value->kind == CQRS_JSON_STRING &&
		memchr(value->start, '\\', value->length) != NULL;
	return next(scanner);
}

/*
 * Everything that belongs to the object or array that begins with the current
 * token.
 */
static bool
scan_nested(Scanner *scanner, const char **end)
{
	JsonLexContext *lex = scanner->lex;
	int			outside = scanner->depth;
	CqrsJsonValue key;
	bool		opened = open_nested(scanner);	/* or else after a value */

	if (!opened)
		return false;
	for (;;)
	{
		bool		in_object = (scanner->objects[scanner->depth / 8] >>
								 (scanner->depth % 8)) & 1;

		if (lex->token_type == (in_object ? JSON_TOKEN_OBJECT_END :
								JSON_TOKEN_ARRAY_END))
		{
			*end = lex->token_terminator;
			scanner->depth--;
			opened = false;
			if (!next(scanner))
				return false;
			if (scanner->depth == outside)
				return true;
			continue;
		}
		if (!opened && !take(scanner, JSON_TOKEN_COMMA))
			return false;
		if (in_object && !scan_key(scanner, &key))
			return false;
		switch (lex->token_type)
		{
			case JSON_TOKEN_OBJECT_START:
			case JSON_TOKEN_ARRAY_START:
				if (!open_nested(scanner))
					return false;
				opened = true;
				break;
			case JSON_TOKEN_STRING:
			case JSON_TOKEN_NUMBER:
			case JSON_TOKEN_TRUE:
			case JSON_TOKEN_FALSE:
			case JSON_TOKEN_NULL:
				if (!next(scanner))
					return false;
				opened = false;
				break;
			default:
				return false;
		}
	}
}

/*
 * Go into the object or array that begins with the current token.  Returns
 * false if it is nested too deeply, or no valid token follows.
 */
static bool
open_nested(Scanner *scanner)
{
	if (scanner->depth + 1 >= CQRS_JSON_MAX_DEPTH)
	{
		scanner->depth = CQRS_JSON_MAX_DEPTH;
		return false;
	}
	scanner->depth++;
	if (scanner->lex->token_type == JSON_TOKEN_OBJECT_START)
		scanner->objects[scanner->depth / 8] |= 1 << (scanner->depth % 8);
	else
		scanner->objects[scanner->depth / 8] &= ~(1 << (scanner->depth % 8));
	return next(scanner);
}

/*
 * A key, which is the current token, and its colon.  Returns false if they are
 * not there.
 */
static bool
scan_key(Scanner *scanner, CqrsJsonValue *key)
{
	JsonLexContext *lex = scanner->lex;

	if (lex->token_type != JSON_TOKEN_STRING)
		return false;
	key->kind = CQRS_JSON_STRING;
	key->start = lex->token_start;
	key->length = lex->token_terminator - lex->token_start;
	key->escaped = memchr(key->start, '\\', key->length) != NULL;
	return next(scanner) && take(scanner, JSON_TOKEN_COLON);
}

/* Go past a token of that type. */
static bool
take(Scanner *scanner, JsonTokenType type)
{
	return scanner->lex->token_type == type && next(scanner);
}

char *
cqrs_json_scan_quote_bare(const char *text, int length, int *result_length)
{
	JsonLexContext *lex = cqrs_make_json_lex(text, length);
	const char *copied = text;
	StringInfoData buf;

	initStringInfo(&buf);
	for (;;)
	{
		if (json_lex(lex) != JSON_SUCCESS)
		{
			appendBinaryStringInfo(&buf, copied, lex->token_start - copied);
			appendStringInfo(&buf, "\"%.*s\"",
							 (int) (lex->token_terminator - lex->token_start),
							 lex->token_start);
			copied = lex->token_terminator;
		}
		else if (lex->token_type == JSON_TOKEN_END)
			break;
	}
	appendBinaryStringInfo(&buf, copied, text + length - copied);
	*result_length = buf.len;
	return buf.data;
}

const CqrsJsonValue *
cqrs_json_scan_find(const CqrsJsonMembers *object, const char *key)
{
	int			length = strlen(key);

	for (int i = object->nmembers - 1; i >= 0; i--)
	{
		if (cqrs_json_scan_is_key(&object->members[i].key, key, length))
			return &object->members[i].value;
	}
	return NULL;
}

bool
cqrs_json_scan_is_key(const CqrsJsonValue *json, const char *key, int length)
{
	const char *problem;
	char	   *name;
	bool		same;

	if (!json->escaped)
		return json->length == length + 2 &&
			memcmp(json->start + 1, key, length) == 0;
	name = cqrs_json_scan_string(json, &problem);
	same = name != NULL && strlen(name) == length &&
		memcmp(name, key, length) == 0;
	if (name != NULL)
		pfree(name);
	return same;
}

char *
cqrs_json_scan_string(const CqrsJsonValue *string, const char **problem)
{
	const char *pos = string->start + 1;
	const char *end = string->start + string->length - 1;
	StringInfoData buf;

	if (!string->escaped)
		return pnstrdup(pos, end - pos);
	initStringInfo(&buf);
	while (pos < end)
	{
		const char *escape = memchr(pos, '\\', end - pos);

		if (escape == NULL)
			escape = end;
		appendBinaryStringInfo(&buf, pos, escape - pos);
		pos = escape;
		if (pos < end && !unescape(&buf, &pos, end, problem))
		{
			pfree(buf.data);
			return NULL;
		}
	}
	return buf.data;
}

/* The number that the four hexadecimal digits of an escape stand for. */
static pg_wchar
hexadecimal(const char *digits)
{
	char		copy[5] = {digits[0], digits[1], digits[2], digits[3], '\0'};

	return strtoul(copy, NULL, 16);
}

/* An escape, which the lexer has accepted. */
static bool
unescape(StringInfo buf, const char **pos, const char *end,
		 const char **problem)
{
	static const char letters[] = "bfnrt";
	static const char controls[] = "\b\f\n\r\t";
	char		letter = (*pos)[1];
	const char *found = strchr(letters, letter);
	pg_wchar	code;

	if (letter != 'u')
	{
		appendStringInfoChar(buf, found == NULL ? letter :
							 controls[found - letters]);
		*pos += 2;
		return true;
	}
	code = hexadecimal(*pos + 2);
	*pos += 6;
	if (is_utf16_surrogate_first(code) && end - *pos >= 6 &&
		(*pos)[0] == '\\' && (*pos)[1] == 'u' &&
		is_utf16_surrogate_second(hexadecimal(*pos + 2)))
	{
		code = surrogate_pair_to_codepoint(code, hexadecimal(*pos + 2));
		*pos += 6;
	}
	else if (is_utf16_surrogate_first(code) || is_utf16_surrogate_second(code))
	{
		*problem = "The escape \\uXXXX of half a surrogate pair stands for no character.";
		return false;
	}
	return append_code(buf, code, problem);
}

/*
 * Append a character in the encoding of the database.  If the database cannot
 * store it, returns false and sets *problem.
 */
static bool
append_code(StringInfo buf, pg_wchar code, const char **problem)
{
	unsigned char utf8[MAX_MULTIBYTE_CHAR_LEN + 1] = {0};
	unsigned char converted[MAX_UNICODE_EQUIVALENT_STRING] = {0};
	int			length;
	Oid			proc;

	if (code == 0)
	{
		*problem = "PostgreSQL cannot store the character \\u0000.";
		return false;
	}
	unicode_to_utf8(code, utf8);
	length = pg_utf_mblen(utf8);
	if (code < 0x80 || GetDatabaseEncoding() == PG_UTF8 ||
		GetDatabaseEncoding() == PG_SQL_ASCII)
	{
		appendBinaryStringInfo(buf, (char *) utf8, length);
		return true;
	}
	proc = FindDefaultConversionProc(PG_UTF8, GetDatabaseEncoding());
	if (!OidIsValid(proc) ||
		pg_do_encoding_conversion_buf(proc, PG_UTF8, GetDatabaseEncoding(),
									  utf8, length, converted,
									  sizeof(converted), true) != length)
	{
		*problem = "The message has a character that the encoding of the database lacks.";
		return false;
	}
	appendStringInfoString(buf, (char *) converted);
	return true;
}
