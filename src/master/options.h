/*-------------------------------------------------------------------------
 *
 * options.h
 *	  Options of masters as users give them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_OPTIONS_H
#define CQRS_OPTIONS_H

#include "postgres.h"

#include "utils/jsonb.h"

#include "master/master.h"

/*
 * Set an option from an argument of cqrs_register(); null gives the default.
 * Raises the error that a user is to see when the value is not one of those
 * that the option can have.
 */
extern void cqrs_option_set(CqrsMasterRow *row, CqrsOption option,
							NullableDatum argument);

/* The same for all options that a JSON object, for cqrs_alter(), names. */
extern void cqrs_options_set_json(CqrsMasterRow *row, Jsonb *options);

#endif							/* CQRS_OPTIONS_H */
