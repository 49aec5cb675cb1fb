/*-------------------------------------------------------------------------
 *
 * command.c
 *	  Utility commands as SQL, run by us.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "base/command.h"

void
cqrs_command_run(const char *command)
{
	int			result;

	SPI_connect();
	result = SPI_execute(command, false, 0);
	if (result != SPI_OK_UTILITY)
		elog(ERROR, "unexpected result %d of: %s", result, command);
	SPI_finish();
}

char *
cqrs_command_relation(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}
