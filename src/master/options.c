/*-------------------------------------------------------------------------
 *
 * options.c
 *	  The options of masters.
 *
 * The table of options is made of option_list.h.  Whether an option fits a table
 * is checked when the master is bound to the table (relation.c, hooks.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "define/name.h"
#include "master/bound.h"
#include "master/options.h"

static void check_fields(const char *name, Datum value);

#define FIELD(name) CQRS_FIELD(CqrsMaster, name)
#define CQRS_OPTION(symbol, ...) [symbol] = {__VA_ARGS__},

static const CqrsOptionInfo infos[] = {
#include "master/option_list.h"
};

const CqrsOptionTable cqrs_options_master = {
	infos, CQRS_NOPTIONS,
	"Options are the arguments of cqrs_register() after the second.",
	"{\"tracked_fields\": [\"name\"], \"meta\": null}"
};

/* The names are checked against the table elsewhere (fields.c). */
static void
check_fields(const char *name, Datum value)
{
	if (cqrs_option_text_list(value) == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must not be empty", name),
				 errdetail("A message needs the primary key, at least."),
				 errhint("Use NULL for all columns.")));
}
