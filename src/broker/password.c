/*-------------------------------------------------------------------------
 *
 * password.c
 *	  The password for a URL that has none.
 *
 * The file is read for each connection, so that another password is used
 * without a reload.  A user whom the URL names and the file does not is an
 * error here, because the broker's own would not name the file.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/guc.h"
#include "base/password_file.h"
#include "broker/failure.h"
#include "broker/password.h"

bool
cqrs_password_find(const CqrsTransport *transport, const CqrsUrl *url,
				   char **password, CqrsFailure *failure)
{
	CqrsUrl		whole = cqrs_transport_complete(transport, url);
	const char *problem;
	char		user[256];

	*password = NULL;
	if (url->password != NULL || cqrs_password_file[0] == '\0')
		return true;
	if (!cqrs_password_file_find(cqrs_password_file, &whole, password,
								 &problem))
	{
		cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT, "could not log in: %s",
						 problem);
		return false;
	}
	if (*password != NULL || url->user == NULL || url->user[0] == '\0')
		return true;
	cqrs_failure_clean(user, sizeof(user), url->user, strlen(url->user));
	cqrs_failure_set(failure, CQRS_BLAME_TRANSPORT,
					 "could not log in: the file of \"cqrs.password_file\" has no line for user \"%s\" and this host, port and vhost or database",
					 user);
	return false;
}
