/*-------------------------------------------------------------------------
 *
 * home.h
 *	  Whether the masters of this database come from another one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_HOME_H
#define CQRS_HOME_H

#include "postgres.h"

/*
 * Whether masters were restored from a dump, or came with a template, and
 * cqrs_resume() was not called since: nothing may be published.  What is seen
 * is at least as new as any snapshot that was taken before.  Needs a
 * transaction.
 */
extern bool cqrs_home_is_copy(void);

/* If it is so, tell the session, which is to wait for publishers. */
extern void cqrs_home_warn(void);

/* A master is being registered in this database. */
extern void cqrs_home_claim(void);

#endif							/* CQRS_HOME_H */
