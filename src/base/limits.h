/*-------------------------------------------------------------------------
 *
 * limits.h
 *	  Limits that settings and shared memory agree on.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LIMITS_H
#define CQRS_LIMITS_H

/* The most processes of one kind that a database can have: its lanes. */
#define CQRS_MAX_LANES	16

#endif							/* CQRS_LIMITS_H */
