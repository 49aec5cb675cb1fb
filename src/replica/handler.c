/*-------------------------------------------------------------------------
 *
 * handler.c
 *	  The functions that a replica names: their signatures.
 *
 * Both get a message, whose type has another OID in each database.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "base/objects.h"
#include "replica/handler.h"

const CqrsFunctionKind *
cqrs_handler_kind(void)
{
	static CqrsSignature signature = {1, {InvalidOid}, BOOLOID};
	static const CqrsFunctionKind kind = {"handler", 1, &signature, NULL, NULL};

	signature.args[0] = cqrs_objects_get(false)->message_type;
	return &kind;
}

const CqrsFunctionKind *
cqrs_handler_retry_kind(void)
{
	static CqrsSignature signature = {
		4, {InvalidOid, INT4OID, TEXTOID, TEXTOID}, INTERVALOID
	};
	static const CqrsFunctionKind kind = {
		"retry function", 1, &signature, NULL, NULL
	};

	signature.args[0] = cqrs_objects_get(false)->message_type;
	return &kind;
}
