/*-------------------------------------------------------------------------
 *
 * option_list.h
 *	  The options of masters, one row for each.
 *
 * CqrsOption (master.h) and the table of options (options.c) are made of these
 * rows.  Their order is that of the columns of cqrs.master and of the arguments
 * of cqrs_register().  A row has the value of CqrsOption, the name of the column,
 * and members of CqrsOptionInfo.  FIELD() is the field of CqrsMaster that gets
 * the value when a master is loaded; options without one are about columns of
 * the table (fields.c), or about its triggers (schema/triggers.c).
 *
 * There is deliberately no #ifndef around the rows.
 *
 *-------------------------------------------------------------------------
 */
CQRS_OPTION(CQRS_OPTION_FIELDS, "fields", CQRS_TYPE_NAMES,.check = check_fields)
CQRS_OPTION(CQRS_OPTION_TRACKED_FIELDS, "tracked_fields", CQRS_TYPE_NAMES)
CQRS_OPTION(CQRS_OPTION_FIELD_MAP, "field_map", CQRS_TYPE_OBJECT)
CQRS_OPTION(CQRS_OPTION_META, "meta", CQRS_TYPE_FUNCTION, FIELD(meta),.role = "meta function")
CQRS_OPTION(CQRS_OPTION_PRODUCE, "produce", CQRS_TYPE_BOOL, FIELD(produce),.default_bool = true)
CQRS_OPTION(CQRS_OPTION_SERIALIZER, "serializer", CQRS_TYPE_FUNCTION, FIELD(serializer),.role = "serializer")
CQRS_OPTION(CQRS_OPTION_SYNC_WHEN, "sync_when", CQRS_TYPE_TEXT, FIELD(sync_when))
CQRS_OPTION(CQRS_OPTION_DELETE_DATA, "delete_data", CQRS_TYPE_FUNCTION, FIELD(delete_data),.role = "delete_data function")
CQRS_OPTION(CQRS_OPTION_LEAVE, "leave", CQRS_TYPE_CHOICE, FIELD(leave_deletes), CQRS_CHOICES("ignore", "delete"))
CQRS_OPTION(CQRS_OPTION_ON_ERROR, "on_error", CQRS_TYPE_CHOICE, FIELD(parks), CQRS_CHOICES("fail", "park"))
CQRS_OPTION(CQRS_OPTION_SKIP_UNCHANGED, "skip_unchanged", CQRS_TYPE_BOOL, FIELD(skip_unchanged))
CQRS_OPTION(CQRS_OPTION_MESSAGE_TTL, "message_ttl", CQRS_TYPE_SECONDS, FIELD(message.ttl_s))
CQRS_OPTION(CQRS_OPTION_EXCHANGE, "exchange", CQRS_TYPE_TEXT, FIELD(message.exchange),.check = cqrs_name_check_exchange)
CQRS_OPTION(CQRS_OPTION_ROUTING_KEY, "routing_key", CQRS_TYPE_TEXT, FIELD(message.routing_key),.check = cqrs_name_check_routing_key)
CQRS_OPTION(CQRS_OPTION_ON_TRUNCATE, "on_truncate", CQRS_TYPE_CHOICE, FIELD(on_truncate), CQRS_CHOICES("delete", "refuse", "ignore"))
CQRS_OPTION(CQRS_OPTION_REPLICATION, "replication", CQRS_TYPE_CHOICE, CQRS_CHOICES("origin", "replica", "always"))

#undef CQRS_OPTION
