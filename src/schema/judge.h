/*-------------------------------------------------------------------------
 *
 * judge.h
 *	  The judge of commands that change the schema below masters.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_JUDGE_H
#define CQRS_JUDGE_H

#include "postgres.h"

/* Register the judge; called once, while the library is preloaded. */
extern void cqrs_judge_init(void);

#endif							/* CQRS_JUDGE_H */
