/*-------------------------------------------------------------------------
 *
 * cqrs.c
 *	  Entry point of the library.
 *
 * The library has to be preloaded, since it needs shared memory and a
 * background worker.  All hooks and callbacks are registered here, once, in
 * the postmaster; its children inherit them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "base/compat.h"
#include "base/guc.h"
#include "base/objects.h"
#include "base/slot.h"
#include "broker/transport.h"
#include "capture/commit.h"
#include "consume/applied.h"
#include "consume/consumer.h"
#include "ddl/utility_hook.h"
#include "define/definition.h"
#include "master/master.h"
#include "outbox/claim.h"
#include "outbox/published.h"
#include "outbox/outbox.h"
#include "publish/publisher.h"
#include "replica/replica.h"
#include "replica/replica_ddl.h"
#include "schema/judge.h"
#include "worker/launcher.h"
#include "worker/roster.h"
#include "worker/stats_file.h"
#include "worker/wake.h"

CQRS_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cqrs must be loaded via \"shared_preload_libraries\""),
				 errhint("Add 'cqrs' to \"shared_preload_libraries\" in postgresql.conf and restart the server.")));

	cqrs_guc_init(cqrs_transport_check_scheme);
	cqrs_objects_init(CQRS_DEFINITION_NATTS(CQRS_NOPTIONS),
					  CQRS_DEFINITION_NATTS(CQRS_REPLICA_NOPTIONS));
	cqrs_roster_init();
	cqrs_outbox_init();
	cqrs_published_init();
	cqrs_claim_init();
	cqrs_publisher_init();
	cqrs_consumer_init();
	cqrs_applied_init();
	cqrs_slot_init();
	cqrs_stats_file_init();
	cqrs_commit_init();
	cqrs_utility_hook_init();
	cqrs_judge_init();
	cqrs_replica_ddl_init();
	cqrs_wake_init();
	cqrs_launcher_init();
}
