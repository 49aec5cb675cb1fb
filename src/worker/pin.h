/*-------------------------------------------------------------------------
 *
 * pin.h
 *	  Settings of PostgreSQL that are the same in each process of ours.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_PIN_H
#define CQRS_PIN_H

#include "postgres.h"

/*
 * Set these settings; called before the process connects.  "durable_commits":
 * whether the commits of the process wait for the disk, and for a synchronous
 * standby, as the server's synchronous_commit says.
 */
extern void cqrs_pin_settings(bool durable_commits);

#endif							/* CQRS_PIN_H */
