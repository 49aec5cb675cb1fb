/*-------------------------------------------------------------------------
 *
 * pin.c
 *	  Settings of PostgreSQL that are the same in each process of ours.
 *
 * The settings of the configuration file, and of ALTER DATABASE and ALTER
 * ROLE, are for users' sessions.  Whatever their values, a worker acts as the
 * bootstrap superuser, and with its own values of the settings below.  These
 * values are set before the process connects, because a value of the source
 * PGC_S_OVERRIDE is kept when the values of database and role are applied.
 * The settings that remain (log_min_messages, for example) can only be set by
 * a superuser, who may mean the workers, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/guc.h"

#include "worker/pin.h"

void
cqrs_pin_settings(bool durable_commits)
{
	const char *settings[][2] = {
		{"role", "none"},
		{"search_path", "pg_catalog, pg_temp"},
		{"session_replication_role", "origin"},
		{"exit_on_error", "off"},
		/* The next snapshot has to see every commit that was counted. */
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"statement_timeout", "0"},
		/* A process that waits for a lock does not see a shutdown request. */
		{"lock_timeout", "1s"},
		{"idle_in_transaction_session_timeout", "0"},
		{"transaction_timeout", "0"}
	};

	for (int i = 0; i < lengthof(settings); i++)
	{
		/* Some versions lack some of these settings. */
		if (GetConfigOption(settings[i][0], true, false) != NULL)
			SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET,
							PGC_S_OVERRIDE);
	}
	/* A crash sets the watermark back a little; waiting would cost more. */
	if (!durable_commits)
		SetConfigOption("synchronous_commit", "off", PGC_SUSET,
						PGC_S_OVERRIDE);
}
