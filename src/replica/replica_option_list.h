/*-------------------------------------------------------------------------
 *
 * replica_option_list.h
 *	  The options of replicas, one row for each.
 *
 * As master/option_list.h has those of masters: CqrsReplicaOption (replica.h)
 * and the table of options (replica.c) are made of these rows.  Their
 * order is that of the columns of cqrs.replica and of the arguments of
 * cqrs_register_replica().  Options without a FIELD() of CqrsReplica are about
 * columns of the table (mapping.c).
 *
 *-------------------------------------------------------------------------
 */
CQRS_OPTION(CQRS_REPLICA_FIELDS, "fields", CQRS_TYPE_NAMES,.check = check_fields)
CQRS_OPTION(CQRS_REPLICA_FIELD_MAP, "field_map", CQRS_TYPE_OBJECT)
CQRS_OPTION(CQRS_REPLICA_HANDLER, "handler", CQRS_TYPE_FUNCTION, FIELD(handler),.role = "handler")
CQRS_OPTION(CQRS_REPLICA_RETRY, "retry", CQRS_TYPE_FUNCTION, FIELD(retry),.role = "retry")
CQRS_OPTION(CQRS_REPLICA_MAX_RETRIES, "max_retries", CQRS_TYPE_COUNT, FIELD(max_retries))
CQRS_OPTION(CQRS_REPLICA_RETRY_DELAY, "retry_delay", CQRS_TYPE_INTERVAL, FIELD(retry_delay_ms),.default_text = "2 s")
CQRS_OPTION(CQRS_REPLICA_ONLY_DIRECT_SYNCS, "only_direct_syncs", CQRS_TYPE_BOOL, FIELD(only_direct_syncs))
CQRS_OPTION(CQRS_REPLICA_ON_EXPIRED, "on_expired", CQRS_TYPE_CHOICE, FIELD(apply_expired), CQRS_CHOICES("dead_letter", "apply"))
CQRS_OPTION(CQRS_REPLICA_EXCHANGE, "exchange", CQRS_TYPE_TEXT, FIELD(exchange),.check = cqrs_name_check_exchange)
CQRS_OPTION(CQRS_REPLICA_ROUTING_KEY, "routing_key", CQRS_TYPE_TEXT, FIELD(routing_key),.check = cqrs_name_check_routing_key)
CQRS_OPTION(CQRS_REPLICA_SOFT_DELETE, "soft_delete", CQRS_TYPE_TEXT)

#undef CQRS_OPTION
