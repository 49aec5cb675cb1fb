/*-------------------------------------------------------------------------
 *
 * settings.h
 *	  Settings while messages are applied.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_SETTINGS_H
#define CQRS_SETTINGS_H

#include "postgres.h"

#include "utils/guc.h"

/*
 * Pin the settings that values and triggers depend on: GUC_ACTION_LOCAL to the
 * end of the transaction, GUC_ACTION_SAVE to the end of the nesting level.
 */
extern void cqrs_settings_pin(GucAction action);

#endif							/* CQRS_SETTINGS_H */
