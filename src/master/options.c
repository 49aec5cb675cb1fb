/*-------------------------------------------------------------------------
 *
 * options.c
 *	  The options of masters.
 *
 * One entry for each option: its name, its type, and a further check of its
 * value.  Whether an option fits a table is checked when the master is bound
 * to the table (relation.c, hooks.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "define/name.h"
#include "master/options.h"

static void check_fields(const char *name, Datum value);

static const CqrsOptionInfo infos[CQRS_NOPTIONS] = {
	[CQRS_OPTION_FIELDS] = {"fields", CQRS_TYPE_NAMES,.check = check_fields},
	[CQRS_OPTION_TRACKED_FIELDS] = {"tracked_fields", CQRS_TYPE_NAMES},
	[CQRS_OPTION_FIELD_MAP] = {"field_map", CQRS_TYPE_OBJECT},
	[CQRS_OPTION_META] = {"meta", CQRS_TYPE_FUNCTION,.role = "meta function"},
	[CQRS_OPTION_PRODUCE] = {"produce", CQRS_TYPE_BOOL,.default_bool = true},
	[CQRS_OPTION_SERIALIZER] = {"serializer", CQRS_TYPE_FUNCTION,
	.role = "serializer"},
	[CQRS_OPTION_SYNC_WHEN] = {"sync_when", CQRS_TYPE_TEXT},
	[CQRS_OPTION_DELETE_DATA] = {"delete_data", CQRS_TYPE_FUNCTION,
	.role = "delete_data function"},
	[CQRS_OPTION_LEAVE] = {"leave", CQRS_TYPE_CHOICE,
	.choices = {"ignore", "delete"}},
	[CQRS_OPTION_ON_ERROR] = {"on_error", CQRS_TYPE_CHOICE,
	.choices = {"fail", "park"}},
	[CQRS_OPTION_SKIP_UNCHANGED] = {"skip_unchanged", CQRS_TYPE_BOOL},
	[CQRS_OPTION_MESSAGE_TTL] = {"message_ttl", CQRS_TYPE_SECONDS},
	[CQRS_OPTION_EXCHANGE] = {"exchange", CQRS_TYPE_TEXT,
	.check = cqrs_name_check_exchange},
	[CQRS_OPTION_ROUTING_KEY] = {"routing_key", CQRS_TYPE_TEXT,
	.check = cqrs_name_check_routing_key},
	[CQRS_OPTION_ON_TRUNCATE] = {"on_truncate", CQRS_TYPE_CHOICE,
	.choices = {"delete", "refuse", "ignore"}},
	[CQRS_OPTION_REPLICATION] = {"replication", CQRS_TYPE_CHOICE,
	.choices = {"origin", "replica", "always"}}
};

const CqrsOptionTable cqrs_options_master = {
	infos, CQRS_NOPTIONS,
	"Options are the arguments of cqrs_register() after the second.",
	"{\"tracked_fields\": [\"name\"], \"meta\": null}"
};

const char *
cqrs_options_role(CqrsOption option)
{
	return infos[option].role;
}

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
