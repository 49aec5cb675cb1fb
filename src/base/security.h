/*-------------------------------------------------------------------------
 *
 * security.h
 *	  A bit of our own in the security context of PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CQRS_SECURITY_H
#define CQRS_SECURITY_H

/*
 * Code of a role runs in the session of another one, who has called a function
 * of the extension, and may leave nothing there (ddl/loan.c).  PostgreSQL carries
 * the security context, bits that it does not know too, into nested functions and
 * parallel workers, and restores it when a (sub)transaction aborts.
 */
#define CQRS_SECURITY_ON_LOAN	0x4000

#endif							/* CQRS_SECURITY_H */
