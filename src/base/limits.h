/*-------------------------------------------------------------------------
 *
 * limits.h
 *	  Limits that settings and shared memory agree on.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_LIMITS_H
#define CQRS_LIMITS_H

/* The most publishers that a database can have. */
#define CQRS_MAX_LANES	16

#endif							/* CQRS_LIMITS_H */
