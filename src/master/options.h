/*-------------------------------------------------------------------------
 *
 * options.h
 *	  The options of masters.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_OPTIONS_H
#define CQRS_OPTIONS_H

#include "postgres.h"

#include "define/option.h"
#include "master/master.h"

/* By CqrsOption: the arguments of cqrs_register(), the keys of cqrs_alter(). */
extern const CqrsOptionTable cqrs_options_master;

#endif							/* CQRS_OPTIONS_H */
