/*-------------------------------------------------------------------------
 *
 * replica_options.c
 *	  The options of replicas.
 *
 * One entry for each option: its name, its type, and a further check of its
 * value.  Whether an option fits the table is checked when the replica is bound
 * to it (mapping.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "define/name.h"
#include "replica/replica_options.h"

static void check_fields(const char *name, Datum value);

static const CqrsOptionInfo infos[CQRS_REPLICA_NOPTIONS] = {
	[CQRS_REPLICA_FIELDS] = {"fields", CQRS_TYPE_NAMES,.check = check_fields},
	[CQRS_REPLICA_FIELD_MAP] = {"field_map", CQRS_TYPE_OBJECT},
	[CQRS_REPLICA_HANDLER] = {"handler", CQRS_TYPE_FUNCTION,.role = "handler"},
	[CQRS_REPLICA_RETRY] = {"retry", CQRS_TYPE_FUNCTION,
	.role = "retry function"},
	[CQRS_REPLICA_MAX_RETRIES] = {"max_retries", CQRS_TYPE_COUNT},
	[CQRS_REPLICA_RETRY_DELAY] = {"retry_delay", CQRS_TYPE_INTERVAL,
	.default_text = "2 s"},
	[CQRS_REPLICA_ONLY_DIRECT_SYNCS] = {"only_direct_syncs", CQRS_TYPE_BOOL},
	[CQRS_REPLICA_ON_EXPIRED] = {"on_expired", CQRS_TYPE_CHOICE,
	.choices = {"dead_letter", "apply"}},
	[CQRS_REPLICA_EXCHANGE] = {"exchange", CQRS_TYPE_TEXT,
	.check = cqrs_name_check_exchange},
	[CQRS_REPLICA_ROUTING_KEY] = {"routing_key", CQRS_TYPE_TEXT,
	.check = cqrs_name_check_routing_key},
	[CQRS_REPLICA_SOFT_DELETE] = {"soft_delete", CQRS_TYPE_TEXT}
};

const CqrsOptionTable cqrs_replica_options = {
	infos, CQRS_REPLICA_NOPTIONS,
	"Options are the arguments of cqrs_register_replica() after the second.",
	"{\"max_retries\": 5, \"handler\": null}"
};

/* The names are checked against the table elsewhere (mapping.c). */
static void
check_fields(const char *name, Datum value)
{
	if (cqrs_option_text_list(value) == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must not be empty", name),
				 errdetail("A replica needs the primary key, at least."),
				 errhint("Use NULL for all columns.")));
}
