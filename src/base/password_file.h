/*-------------------------------------------------------------------------
 *
 * password_file.h
 *	  Passwords of brokers, from a file.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_PASSWORD_FILE_H
#define CQRS_PASSWORD_FILE_H

#include "postgres.h"

#include "base/url.h"

/*
 * Read a password file.  *password is that of the first line that matches a
 * URL without parts that are NULL or 0, or NULL if there is no such line.  The
 * caller overwrites and frees it.  If the file cannot be read or must not be
 * used, returns false with *problem a text for an error; it has nothing of the
 * file.  Raises no error but for lack of memory, and never waits for a writer.
 */
extern bool cqrs_password_file_find(const char *path, const CqrsUrl *url,
									char **password, const char **problem);

#endif							/* CQRS_PASSWORD_FILE_H */
