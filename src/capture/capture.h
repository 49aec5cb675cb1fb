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

#include "utils/relcache.h"

/*
 * "rel" becomes a master's table in this transaction, which may have changed
 * rows of the table before.
 */
extern void cqrs_capture_begin_late(Relation rel);

#endif							/* CQRS_CAPTURE_H */
