/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  Settings while messages are applied.
 *
 * The effect of a message must not depend on the settings of a database or a
 * role.  The owner's code must not find objects by a caller's search_path.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/settings.h"

void
cqrs_settings_pin(GucAction action)
{
	static const struct
	{
		const char *name;
		const char *value;
	}			settings[] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"TimeZone", "UTC"},
		{"DateStyle", "ISO, MDY"},
		{"IntervalStyle", "postgres"},
		{"array_nulls", "on"},
		{"xmloption", "content"},
		{"session_replication_role", "origin"},
		{"row_security", "on"},
	};

	for (int i = 0; i < lengthof(settings); i++)
	{
		const char *value = GetConfigOption(settings[i].name, false, false);

		if (strcmp(value, settings[i].value) != 0)
			(void) set_config_option(settings[i].name, settings[i].value,
									 PGC_SUSET, PGC_S_SESSION, action, true,
									 ERROR, false);
	}
}
