/*-------------------------------------------------------------------------
 *
 * value.h
 *	  Values of columns as JSON.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_VALUE_H
#define CQRS_VALUE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "lib/stringinfo.h"

/* The way in which a value is written. */
typedef enum CqrsStyle
{
	CQRS_STYLE_BOOL,
	CQRS_STYLE_INT2,
	CQRS_STYLE_INT4,
	CQRS_STYLE_INT8,
	CQRS_STYLE_FLOAT4,
	CQRS_STYLE_FLOAT8,
	CQRS_STYLE_NUMERIC,
	CQRS_STYLE_DATE,
	CQRS_STYLE_TIMESTAMP,
	CQRS_STYLE_TIMESTAMPTZ,
	CQRS_STYLE_TEXT,			/* a varlena string */
	CQRS_STYLE_UUID,
	CQRS_STYLE_JSON,			/* the output function gives JSON */
	CQRS_STYLE_ARRAY,
	CQRS_STYLE_COMPOSITE,
	CQRS_STYLE_STRING			/* the output function's text, quoted */
} CqrsStyle;

typedef struct CqrsValueFormat
{
	CqrsStyle	style;
	FmgrInfo	output;			/* of NUMERIC, JSON and STRING */
	bool		json_is_text;	/* "output" returns a text, not a cstring */
	bool		text_is_fixed;	/* STRING: it depends on no setting */

	/* ARRAY */
	struct CqrsValueFormat *element;
	int16		typlen;
	bool		typbyval;
	char		typalign;
} CqrsValueFormat;

/*
 * Decide how values of a type are written.  Domains are written as their base
 * types.  The format's allocations are in the current context.
 */
extern void cqrs_value_init(CqrsValueFormat *format, Oid type);

/* Whether the text may depend on settings. */
extern bool cqrs_value_uses_settings(const CqrsValueFormat *format);

/* Append a value that is not null. */
extern void cqrs_value_append(StringInfo out, CqrsValueFormat *format,
							  Datum value);

/* Append a point in time in the form of cqrs_updated, without quotes. */
extern void cqrs_value_append_timestamptz(StringInfo out, TimestampTz time);

#endif							/* CQRS_VALUE_H */
