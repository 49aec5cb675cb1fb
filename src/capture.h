/*-------------------------------------------------------------------------
 *
 * capture.h
 *	  Triggers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_CAPTURE_H
#define CQRS_CAPTURE_H

#include "postgres.h"

#include "storage/itemptr.h"
#include "utils/relcache.h"

/*
 * Names of the triggers on a master's table.  Triggers fire in the order of
 * their names.  The trigger of UPDATE fires after the user's, so that what these
 * decide is known.  The trigger of INSERT and DELETE fires before the user's:
 * these may insert rows that refer to the new one, or delete rows that the old
 * one referred to, and a row is noted before others that change on its account.
 */
#define CQRS_TRIGGER_INSERT_DELETE	"00_cqrs_insert_delete"
#define CQRS_TRIGGER_UPDATE			"zz_cqrs_update"
#define CQRS_TRIGGER_TRUNCATE		"zz_cqrs_truncate"

/*
 * "rel" becomes a master's table in this transaction, which may have changed
 * some of its rows before.
 */
extern void cqrs_capture_begin_late(Relation rel);

#endif							/* CQRS_CAPTURE_H */
