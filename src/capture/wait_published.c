/*-------------------------------------------------------------------------
 *
 * wait_published.c
 *	  cqrs_wait_published: waits until the session's messages are confirmed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/home.h"
#include "capture/commit.h"
#include "outbox/published.h"

PG_FUNCTION_INFO_V1(cqrs_wait_published);

/* cqrs_wait_published(timeout interval) RETURNS boolean */
Datum
cqrs_wait_published(PG_FUNCTION_ARGS)
{
	TimestampTz deadline = DT_NOEND;
	CqrsMark	mark = cqrs_published_mark();

	if (cqrs_commit_has_unsent())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot wait for messages of the current transaction"),
				 errdetail("Messages are published only after their transaction has committed."),
				 errhint("Call cqrs_wait_published() after COMMIT.")));
	if (mark.commits > 0)
		cqrs_home_warn();
	if (!PG_ARGISNULL(0))
		deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
														   TimestampTzGetDatum(GetCurrentTimestamp()),
														   PG_GETARG_DATUM(0)));
	PG_RETURN_BOOL(cqrs_published_wait(&mark, deadline));
}
