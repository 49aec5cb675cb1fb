/*-------------------------------------------------------------------------
 *
 * password.h
 *	  The password for a URL that has none.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_PASSWORD_H
#define CQRS_PASSWORD_H

#include "broker/transport.h"

/*
 * Look up the password of a URL of a transport in the file of
 * cqrs.password_file.  *password is palloc'd, to be overwritten after its use,
 * or NULL if the URL has a password, or if neither URL nor file name a login.
 * Returns false with the reason in *failure if the file cannot be used, or if
 * it has no line for the user that the URL names.
 */
extern bool cqrs_password_find(const CqrsTransport *transport,
							   const CqrsUrl *url, char **password,
							   CqrsFailure *failure);

#endif							/* CQRS_PASSWORD_H */
