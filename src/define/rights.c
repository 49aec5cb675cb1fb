/*-------------------------------------------------------------------------
 *
 * rights.c
 *	  What a user needs to define masters and replicas.
 *
 * Messages are published, and queues are bound, with the login of the server's
 * administrator, who decides which exchanges others may use.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/guc.h"
#include "define/rights.h"

void
cqrs_rights_check_table(Oid relid)
{
	const char *name = get_rel_name(relid);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid),
				 errdetail("The relation may have been dropped concurrently."),
				 errhint("Name a table that exists.")));
	if (!cqrs_owns_relation(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, name);
}

Oid
cqrs_rights_table_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
		ReleaseSysCache(tuple);
	}
	return owner;
}

void
cqrs_rights_check_exchange(const char *before, const char *after)
{
	if (after == NULL || superuser() ||
		(before != NULL && strcmp(before, after) == 0) ||
		cqrs_guc_allows_exchange(after))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for exchange \"%s\"", after),
			 errdetail("The setting \"cqrs.allowed_exchanges\" does not name the exchange."),
			 errhint("Have a superuser add the exchange to the setting, or set the option.")));
}
