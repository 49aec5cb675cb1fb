/*-------------------------------------------------------------------------
 *
 * name.h
 *	  Names that users give and the broker gets.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_NAME_H
#define CQRS_NAME_H

#include "postgres.h"

/* Raise an error if a name cannot be the cqrs_id of a master or replica. */
extern void cqrs_name_check_id(const char *cqrs_id);

/* Checks of options (option.h). */
extern void cqrs_name_check_exchange(const char *name, Datum value);
extern void cqrs_name_check_routing_key(const char *name, Datum value);

#endif							/* CQRS_NAME_H */
