/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *	  What the targets of libFuzzer share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FUZZ_H
#define FUZZ_H

#include "postgres.h"

#include <sys/stat.h>

#include "port/pg_bswap.h"

#include "../unit/server.h"

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);
extern int	LLVMFuzzerInitialize(int *argc, char ***argv);

/* Writes the inputs to begin with, by write_seed(). */
extern void make_seeds(void);

static const char *seed_folder;

static void
write_seed(const char *name, const char *bytes, size_t length)
{
	char		path[MAXPGPATH];
	FILE	   *file;

	snprintf(path, sizeof(path), "%s/%s", seed_folder, name);
	file = fopen(path, "w");
	CHECK(file != NULL && fwrite(bytes, 1, length, file) == length);
	CHECK(fclose(file) == 0);
}

/* Called by libFuzzer before anything else. */
int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct stat status;

	for (int i = 1; i < *argc && seed_folder == NULL; i++)
	{
		if (stat((*argv)[i], &status) == 0 && S_ISDIR(status.st_mode))
			seed_folder = (*argv)[i];
	}
	if (seed_folder != NULL)
		make_seeds();
	return 0;
}

#endif							/* FUZZ_H */
